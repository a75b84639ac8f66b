"""What a candidate costs by prediction, and by how much it misses the budgets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations, product

from nas.architecture import Architecture
from nas.budget import FIGURES, LATENCIES, RATES, STORED, Budget, Floor
from nas.errors import InfeasibleBudgetError
from nas.latency.profile import Profile
from nas.model import CompactBertConfig
from nas.model.sizes import Sizes
from nas.search.encoding import Encoding
from nas.space import SearchSpace

_TRIES = 20_000


def cheapest(space: SearchSpace, cost: Callable[[Architecture], float]) -> Architecture:
    """The architecture of least cost, where each part of a network has a cost of its own.

    Goes from the smallest through the ends, all layers alike and one layer after another, as long as that saves.
    Dimensions of layers change in pairs: without attention no tokens are dropped, and one of two blocks must stay.
    """
    encoding, known = Encoding(space), dict[Architecture, float]()
    sizes = encoding.sizes()

    def cost_of(architecture: Architecture) -> float:
        if architecture not in known:
            known[architecture] = cost(architecture)
        return known[architecture]

    def step(best: Architecture, *dimensions: Sequence[str]) -> Architecture:
        """The best of all values of some dimensions, each of them one or several integers that are alike."""
        values = encoding.encode(best)
        changed = []
        for setting in product(*(range(sizes[names[0]]) for names in dimensions)):
            alike = {name: value for names, value in zip(dimensions, setting, strict=True) for name in names}
            changed.append(encoding.decode(values | alike))
        return min((best, *changed), key=cost_of)

    best, before = space.smallest(), float("inf")
    while cost_of(best) < before:
        before = cost_of(best)
        for name in encoding.ends:
            best = step(best, (name,))
        dimensions = [encoding.of_layer(layer.source) for layer in best.layers]
        best = step(best, *zip(*dimensions, strict=True))
        for names in dimensions:
            for pair in combinations(names, 2):
                best = step(best, *((name,) for name in pair))
    return best


@dataclass(frozen=True)
class Costs:
    """Predicted costs of architectures against a study's budgets."""

    config: CompactBertConfig
    profiles: Mapping[str, Profile]
    budgets: tuple[Budget, ...]
    floors: Mapping[str, Floor] = field(default_factory=dict)
    """The floors of those budgets that have one, by the budget's name, on the texts that candidates are judged by."""
    shares: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """Of each budget, in descending order: where a search looks for good candidates, since a front has a cheap end."""

    def predict_ms(self, architecture: Architecture, exits: Sequence[float] = ()) -> dict[str, float]:
        """The predicted median latency on each device, in milliseconds. `exits`: see `Profile.predict`."""
        return {name: profile.predict(architecture, exits)["p50_ms"] for name, profile in self.profiles.items()}

    def teacher(self, device: str) -> dict[str, float]:
        """The figures of the uncompressed teacher on a device."""
        return self._teachers[device]

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes(self.config)

    @cached_property
    def _teachers(self) -> dict[str, dict[str, float]]:
        stored = self.stored(self.config.architecture)
        return {name: profile.teacher | stored for name, profile in self.profiles.items()}

    def excess(
        self, architecture: Architecture, budget: Budget, exits: Sequence[float] = (), slower: float = 1.0
    ) -> float:
        """By how much the worst figure misses its limit, relative to the limit; at most 0 if a budget is met.

        `slower`: by what factor devices are slower than their profiles say.
        """
        found = {
            limits.device: self.figures(architecture, limits.device, exits, limits.given) for limits in budget.limits
        }
        for figures in found.values():
            for name in figures:
                figures[name] *= _when_slower(name, slower)
        return max(limits.excess(found[limits.device], self.teacher(limits.device)) for limits in budget.limits)

    def cautious_excess(self, architecture: Architecture, budget: Budget, exits: Sequence[float] = ()) -> float:
        """Of one of the budgets; see `cautious_excesses`."""
        return self.cautious_excesses(architecture, exits)[self.budgets.index(budget)]

    def figures(
        self, architecture: Architecture, device: str, exits: Sequence[float] = (), names: Collection[str] = FIGURES
    ) -> dict[str, float]:
        """The predicted figures of an architecture on a device, all or those named."""
        profile, found = self.profiles[device], dict[str, float]()
        if {*STORED, "peak_memory_mb"} & set(names):
            found |= self.stored(architecture)
            found["peak_memory_mb"] = profile.predict_memory_mb(found["size_mb"])
        if set(names) - found.keys():
            found |= profile.predict(architecture, exits)
        return {name: found[name] for name in names}

    def minimised(self, architecture: Architecture, floor: Floor, exits: Sequence[float] = ()) -> float:
        """The predicted figure that a budget with a floor minimises."""
        return self.figures(architecture, floor.device, exits, (floor.minimise,))[floor.minimise]

    def saving(self, architecture: Architecture, floor: Floor, exits: Sequence[float] = ()) -> float:
        """The logarithm of the teacher's figure over that."""
        return math.log(self.teacher(floor.device)[floor.minimise] / self.minimised(architecture, floor, exits))

    def limited(self, architecture: Architecture, exits: Sequence[float] = ()) -> tuple[float, ...]:
        """All that an architecture costs by prediction in any respect that some budget limits; less is better."""
        found = self._found(architecture, exits)
        return tuple(-found[at][name] if name in RATES else found[at][name] for at, name in self._asked)

    def _found(self, architecture: Architecture, exits: Sequence[float]) -> dict[str, dict[str, float]]:
        """The figures that some budget asks for, on each device."""
        return {
            device: self.figures(architecture, device, exits, [name for at, name in self._asked if at == device])
            for device in self.profiles
        }

    @cached_property
    def _asked(self) -> list[tuple[str, str]]:
        """Devices and figures that some budget limits, and each device's median."""
        asked = {(limits.device, name) for budget in self.budgets for limits in budget.limits for name in limits.given}
        return sorted(asked | {(device, "p50_ms") for device in self.profiles})

    def stored(self, architecture: Architecture) -> dict[str, float]:
        """The figures of an architecture that do not depend on a device."""
        return {"size_mb": self._sizes.stored_mb(architecture), "params": self._sizes.parameters(architecture)}

    def cautious_excesses(self, architecture: Architecture, exits: Sequence[float] = ()) -> tuple[float, ...]:
        """The excess over each budget if predictions err by as much as the profile's do on average.

        Where texts leave a network early is known once it is evaluated; before, all are taken to leave after the first
        layer.
        """
        found = self._found(architecture, exits or _earliest(architecture))
        for device, figures in found.items():
            for name in figures:
                figures[name] *= _when_slower(name, _caution(self.profiles[device]))
        return tuple(
            max(limits.excess(found[limits.device], self.teacher(limits.device)) for limits in budget.limits)
            for budget in self.budgets
        )

    def violation(self, architecture: Architecture, exits: Sequence[float] = ()) -> float:
        """The cautious excess over the budget that is nearest to being met; at most 0 if one of them is met."""
        return min(self.cautious_excesses(architecture, exits))

    def check_feasible(self, space: SearchSpace) -> None:
        """Raise `InfeasibleBudgetError` for a budget that even the cheapest sub-networks miss, predictions taken with
        caution as in the search.
        """
        for budget in self.budgets:
            for limits in budget.limits:
                profile = self.profiles[limits.device]
                for name, limit in limits.values(self.teacher(limits.device)).items():
                    figure = partial(self._at_best, name, limits.device)
                    found = figure(cheapest(space, figure))
                    found *= _when_slower(name, _caution(profile))
                    if -found < limit if name in RATES else found > limit:
                        raise InfeasibleBudgetError(
                            f"budgets.{budget.name}: {name} on {limits.device} must be {_bound(name, abs(found))}, "
                            "what the cheapest sub-network takes (teacher p50: "
                            f"{profile.teacher_p50_ms:.4g} ms), but the limit is {limit:.4g}; "
                            f"{'lower' if name in RATES else 'raise'} it, or use a smaller search space"
                        )

            joint = partial(self.cautious_excess, budget=budget)
            if joint(cheapest(space, joint)) > 0.0:
                raise InfeasibleBudgetError(
                    f"budgets.{budget.name}: each of its limits can be kept, but no sub-network was found that keeps "
                    "all; raise one of them, or use a smaller search space"
                )

    def _at_best(self, name: str, device: str, architecture: Architecture) -> float:
        """A figure that budgets limit, less being better, where all texts leave as early as they may."""
        found = self.figures(architecture, device, _earliest(architecture), (name,))[name]
        return -found if name in RATES else found

    def initial_population(self, space: SearchSpace, size: int, rng: random.Random) -> list[Architecture]:
        """Random architectures that use each budget well, in equal shares, and the one that is farthest within one."""
        population = [cheapest(space, self.violation)]
        tries = 0
        while len(population) < size and tries < _TRIES:
            budget = self.budgets[len(population) % len(self.budgets)]
            candidate = space.sample(rng)
            # A budget that random sampling hardly ever meets is approached from the smallest side.
            if tries % 2:
                candidate = space.mutate(rng.choice(population), rng, rate=0.3)
            least = -1.0 if budget.has_floor else -0.3  # nobody knows how much of its limit a floor takes
            if least <= self.cautious_excess(candidate, budget) <= 0.0 and candidate not in population:
                population.append(candidate)
            tries += 1
        return population


def _when_slower(name: str, slower: float) -> float:
    """What a figure is to be multiplied with where a device is slower by a factor than its profile says."""
    return slower if name in LATENCIES else 1.0 / slower if name in RATES else 1.0


def _caution(profile: Profile) -> float:
    """By what factor a device is taken to be slower, since predictions err: by as much as they do on average."""
    return 1.0 + profile.error["mape"]


def no_dearer(cost: Sequence[float], limit: Sequence[float]) -> bool:
    """Whether one cost is at most another in every respect."""
    return all(own <= other for own, other in zip(cost, limit, strict=True))


def _bound(name: str, value: float) -> str:
    return f"at {'most' if name in RATES else 'least'} {value:.4g}"


def _earliest(architecture: Architecture) -> tuple[float, ...]:
    """The shares of texts that leave after each layer, if all leave after the first that they can."""
    return (1.0,) if architecture.exit_threshold else ()
