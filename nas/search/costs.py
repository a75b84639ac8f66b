"""Predicts the costs of candidate architectures, and by how much these costs violate the budgets.

`Costs` combines the devices' latency profiles with the budgets of a study. Samplers use `Costs` to propose candidates
that are likely to meet a budget. `selection.py` uses `Costs` to choose the candidates to measure. `cheapest` searches
for the architecture with the lowest cost.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations, product

from nas.architecture import Architecture
from nas.budget import COST_METRICS, LATENCIES, RATES, STORED, Budget, Floor
from nas.errors import InfeasibleBudgetError
from nas.latency.profile import Profile
from nas.model import CompactBertConfig
from nas.model.sizes import Sizes
from nas.search.encoding import Encoding
from nas.space import SearchSpace

_TRIES = 20_000


def cheapest(space: SearchSpace, cost: Callable[[Architecture], float]) -> Architecture:
    """Return the cheapest architecture that a coordinate descent finds in the search space.

    The descent starts from the smallest architecture and repeats three steps as long as the cost falls:

    1. Optimise each dimension of the complete network, such as the hidden size.
    2. Optimise the dimensions of the layers together, with the same values in every layer.
    3. Optimise the dimensions of each layer separately, two at a time.

    Step 3 optimises pairs because the dimensions of a layer depend on each other: only a layer with attention can drop
    tokens, and a layer must keep at least one of its two blocks. The method assumes that each part of a network adds to
    the cost independently of the other parts.
    """
    encoding, known_costs = Encoding(space), dict[Architecture, float]()
    sizes = encoding.sizes()

    def cost_of(architecture: Architecture) -> float:
        if architecture not in known_costs:
            known_costs[architecture] = cost(architecture)
        return known_costs[architecture]

    def cheapest_variant(best: Architecture, *dimensions: Sequence[str]) -> Architecture:
        """Return the cheapest architecture among `best` and its variants.

        Each item of `dimensions` lists integer variables (see `Encoding`) that get the same value in a variant. There
        is one variant for each combination of these values.
        """
        values = encoding.encode(best)
        variants = []
        for setting in product(*(range(sizes[names[0]]) for names in dimensions)):
            new_values = {name: value for names, value in zip(dimensions, setting, strict=True) for name in names}
            variants.append(encoding.decode(values | new_values))
        return min((best, *variants), key=cost_of)

    best, previous_cost = space.smallest(), float("inf")
    while cost_of(best) < previous_cost:
        previous_cost = cost_of(best)
        for name in encoding.global_dimensions:
            best = cheapest_variant(best, (name,))
        dimensions = [encoding.of_layer(layer.source) for layer in best.layers]
        best = cheapest_variant(best, *zip(*dimensions, strict=True))
        for names in dimensions:
            for pair in combinations(names, 2):
                best = cheapest_variant(best, *((name,) for name in pair))
    return best


@dataclass(frozen=True)
class Costs:
    """Predicts the costs of architectures, and compares these costs with the budgets of a study."""

    config: CompactBertConfig
    profiles: Mapping[str, Profile]
    budgets: tuple[Budget, ...]
    floors: Mapping[str, Floor] = field(default_factory=dict)
    """The accuracy floors (the least accuracies that budgets require), keyed by budget name.

    Budgets without a floor are not included. The required accuracies refer to the texts on which candidates are
    evaluated.
    """
    shares: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """Fractions of the budgets, in descending order.

    For each fraction of each budget, the guided search looks for the most accurate candidate whose costs are at most
    this fraction of the limits. Because of the fractions below 1, the search also finds candidates that are much
    cheaper than the budgets allow.
    """

    def predict_ms(self, architecture: Architecture, exits: Sequence[float] = ()) -> dict[str, float]:
        """Return the predicted median latency in milliseconds on each device, keyed by device name.

        `exits` contains the share of texts that exit after each layer. If it is empty, all texts pass through all
        layers.
        """
        return {name: profile.predict(architecture, exits)["p50_ms"] for name, profile in self.profiles.items()}

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes(self.config)

    @cached_property
    def teachers(self) -> dict[str, dict[str, float]]:
        """The uncompressed teacher's metrics on each device, keyed by device name and then by metric name.

        The metrics are `size_mb`, `params`, and those that the device's profile contains.
        """
        stored = self.stored(self.config.architecture)
        return {name: profile.teacher | stored for name, profile in self.profiles.items()}

    def violation(
        self, architecture: Architecture, budget: Budget, exits: Sequence[float] = (), slowdown: float = 1.0
    ) -> float:
        """Return by how much an architecture is predicted to violate a budget, relative to the most violated limit.

        For example, 0.1 means that a cost is 10 % above its limit. The result is at most 0 if all limits are met.
        `slowdown` is the assumed ratio of the devices' current latencies to the latencies in their profiles.
        """
        predicted = {
            limits.device: self.metrics(architecture, limits.device, exits, limits.given) for limits in budget.limits
        }
        for metrics in predicted.values():
            for name in metrics:
                metrics[name] *= _slowdown_factor(name, slowdown)
        return max(limits.violation(predicted[limits.device], self.teachers[limits.device]) for limits in budget.limits)

    def cautious_violation(self, architecture: Architecture, budget: Budget, exits: Sequence[float] = ()) -> float:
        """Return the predicted violation of one budget, including a safety margin; see `cautious_violations`."""
        return self.cautious_violations(architecture, exits)[self.budgets.index(budget)]

    def metrics(
        self,
        architecture: Architecture,
        device: str,
        exits: Sequence[float] = (),
        names: Collection[str] = COST_METRICS,
    ) -> dict[str, float]:
        """Return an architecture's predicted cost metrics on a device, keyed by metric name.

        `names` lists the metrics to return, which are all of `COST_METRICS` by default.
        """
        profile, predicted = self.profiles[device], dict[str, float]()
        if {*STORED, "peak_memory_mb"} & set(names):
            predicted |= self.stored(architecture)
            predicted["peak_memory_mb"] = profile.predict_memory_mb(predicted["size_mb"])
        if set(names) - predicted.keys():
            predicted |= profile.predict(architecture, exits)
        return {name: predicted[name] for name in names}

    def minimised(self, architecture: Architecture, floor: Floor, exits: Sequence[float] = ()) -> float:
        """Return the predicted value of `floor.minimise`, the metric that a budget with this floor minimises."""
        return self.metrics(architecture, floor.device, exits, (floor.minimise,))[floor.minimise]

    def saving(self, architecture: Architecture, floor: Floor, exits: Sequence[float]) -> float:
        """Return log(T / A), which is positive if the architecture is cheaper than the teacher.

        T and A are the values of the metric `floor.minimise` for the teacher and the architecture.
        """
        return math.log(self.teachers[floor.device][floor.minimise] / self.minimised(architecture, floor, exits))

    def cost_vector(self, architecture: Architecture, exits: Sequence[float] = ()) -> tuple[float, ...]:
        """Return the predicted costs of an architecture: one value for each pair in `_device_metrics`.

        The costs are `p50_ms` on each device, and every metric that a budget limits. Rates (`throughput_per_s`) are
        negated, so that lower values are better for all costs. `exits` has the same meaning as in
        `cautious_violations`.
        """
        predicted = self._predicted_metrics(architecture, exits)
        values = ((name, predicted[device][name]) for device, name in self._device_metrics)
        return tuple(-value if name in RATES else value for name, value in values)

    def _predicted_metrics(self, architecture: Architecture, exits: Sequence[float]) -> dict[str, dict[str, float]]:
        """Return the predictions for all pairs in `_device_metrics`, keyed by device and then by metric.

        `exits` has the same meaning as in `cautious_violations`.
        """
        exits = exits or _earliest_exits(architecture)
        names_by_device = {device: list[str]() for device in self.profiles}
        for device, name in self._device_metrics:
            names_by_device[device].append(name)
        return {device: self.metrics(architecture, device, exits, names) for device, names in names_by_device.items()}

    @cached_property
    def _device_metrics(self) -> list[tuple[str, str]]:
        """Sorted (device, metric) pairs.

        Each device is paired with `p50_ms`, and with every metric that a budget limits on this device.
        """
        all_limits = [limits for budget in self.budgets for limits in budget.limits]
        limited = {(limits.device, name) for limits in all_limits for name in limits.given}
        return sorted(limited | {(device, "p50_ms") for device in self.profiles})

    def stored(self, architecture: Architecture) -> dict[str, float]:
        """Return `size_mb` and `params`, keyed by name: the two cost metrics that do not depend on the device."""
        return {"size_mb": self._sizes.stored_mb(architecture), "params": self._sizes.parameters(architecture)}

    def cautious_violations(self, architecture: Architecture, exits: Sequence[float] = ()) -> tuple[float, ...]:
        """Return the predicted violation of each budget (see `violation`), computed with a safety margin.

        The margin is the mean relative error of the device's profile. It increases predicted latencies and lowers
        predicted rates. `exits` contains the share of texts that exit after each layer. These shares are known only
        after a network has been evaluated. If `exits` is empty and the network has early exits, all texts are assumed
        to exit after the first layer.
        """
        predicted = self._predicted_metrics(architecture, exits)
        for device, metrics in predicted.items():
            for name in metrics:
                metrics[name] *= safety_factor(name, self.profiles[device])
        return tuple(
            max(limits.violation(predicted[limits.device], self.teachers[limits.device]) for limits in budget.limits)
            for budget in self.budgets
        )

    def least_violation(self, architecture: Architecture, exits: Sequence[float] = ()) -> float:
        """Return the smallest of the `cautious_violations`.

        The result is at most 0 if the architecture is predicted to meet at least one budget.
        """
        return min(self.cautious_violations(architecture, exits))

    def check_feasible(self, space: SearchSpace) -> None:
        """Raise `InfeasibleBudgetError` if there is a budget that every sub-network is predicted to violate.

        The predicted costs include the safety margin that `cautious_violations` describes. Only the cheapest
        sub-networks are checked.
        """
        for budget in self.budgets:
            for limits in budget.limits:
                profile = self.profiles[limits.device]
                for name, limit in limits.values(self.teachers[limits.device]).items():
                    cost = partial(self._best_case_cost, name, limits.device)
                    lowest_cost = cost(cheapest(space, cost))
                    lowest_cost *= safety_factor(name, profile)
                    if -lowest_cost < limit if name in RATES else lowest_cost > limit:
                        raise InfeasibleBudgetError(
                            f"budgets.{budget.name}: the limit of {name} on {limits.device} must be "
                            f"{_bound(name, abs(lowest_cost))}, the best that a sub-network is predicted to reach "
                            f"(teacher p50: {profile.teacher_p50_ms:.4g} ms), but it is {limit:.4g}; "
                            f"{'lower' if name in RATES else 'raise'} the limit, or add smaller sizes to the search "
                            "space"
                        )

            budget_violation = partial(self.cautious_violation, budget=budget)
            if budget_violation(cheapest(space, budget_violation)) > 0.0:
                raise InfeasibleBudgetError(
                    f"budgets.{budget.name}: each limit can be met by itself, but no sub-network was found that meets "
                    "all of them; relax a limit, or add smaller sizes to the search space"
                )

    def _best_case_cost(self, name: str, device: str, architecture: Architecture) -> float:
        """Return the predicted value of the metric `name` if all texts exit as early as possible.

        Metrics in `RATES`, for which higher is better, are negated.
        """
        value = self.metrics(architecture, device, _earliest_exits(architecture), (name,))[name]
        return -value if name in RATES else value

    def initial_population(self, space: SearchSpace, size: int, rng: random.Random) -> list[Architecture]:
        """Return up to `size` architectures with which a search starts.

        The first is the architecture with the smallest `least_violation`. The others are random architectures and
        mutants of earlier architectures in the list. The budgets take turns: each new architecture is predicted to meet
        the budget whose turn it is. Unless this budget has an accuracy floor, the architecture is also predicted to use
        at least 70 % of it.
        """
        population = [cheapest(space, self.least_violation)]
        tries = 0
        while len(population) < size and tries < _TRIES:
            budget = self.budgets[len(population) % len(self.budgets)]
            candidate = space.sample(rng)
            # Random samples hardly ever meet a tight budget, so every second try mutates an earlier architecture.
            if tries % 2:
                candidate = space.mutate(rng.choice(population), rng, rate=0.3)
            lower_bound = -1.0 if budget.has_floor else -0.3  # the cost of reaching a floor is not known yet
            if lower_bound <= self.cautious_violation(candidate, budget) <= 0.0 and candidate not in population:
                population.append(candidate)
            tries += 1
        return population


def _slowdown_factor(name: str, slowdown: float) -> float:
    """Return the factor by which the metric `name` changes if a device takes `slowdown` times as long as predicted."""
    return slowdown if name in LATENCIES else 1.0 / slowdown if name in RATES else 1.0


def safety_factor(name: str, profile: Profile) -> float:
    """Return the factor by which a predicted value of the metric `name` is multiplied, to include a safety margin.

    It is above 1 for latencies, below 1 for rates, and 1 for all other metrics.
    """
    return _slowdown_factor(name, 1.0 + profile.error["mape"])


def weakly_dominates(cost: Sequence[float], limit: Sequence[float]) -> bool:
    """Whether each component of `cost` is at most as large as the corresponding component of `limit`."""
    return all(own <= other for own, other in zip(cost, limit, strict=True))


def _bound(name: str, value: float) -> str:
    return f"at {'most' if name in RATES else 'least'} {value:.4g}"


def _earliest_exits(architecture: Architecture) -> tuple[float, ...]:
    """Return the share of texts that exit after each layer in the cheapest case: all texts exit after the first layer.

    The result is empty for a network without early exits.
    """
    return (1.0,) if architecture.exit_threshold else ()
