"""What a candidate costs by prediction, and by how much it misses the budgets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations, product

from nas.architecture import Architecture
from nas.errors import InfeasibleBudgetError
from nas.latency import Profile
from nas.model import CompactBertConfig
from nas.model.sizes import count_parameters, stored_mb
from nas.search.encoding import Encoding
from nas.space import SearchSpace
from nas.study import Budget

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

    def predict_ms(self, architecture: Architecture, exits: Sequence[float] = ()) -> dict[str, float]:
        """The predicted median latency on each device, in milliseconds. `exits`: see `Profile.predict_ms`."""
        return {name: profile.predict_ms(architecture, exits) for name, profile in self.profiles.items()}

    def excess(self, architecture: Architecture, budget: Budget, exits: Sequence[float] = ()) -> float:
        """By how much the worst limit of a budget is exceeded, relative to the limit; at most 0 if it is met."""
        profile = self.profiles[budget.device]
        limits = budget.limits(profile.teacher_p50_ms)
        figures = self._figures(limits, profile, architecture, exits)
        return max(figures[name] / limit - 1.0 for name, limit in limits.items())

    def _figures(
        self, names: Iterable[str], profile: Profile, architecture: Architecture, exits: Sequence[float]
    ) -> dict[str, float]:
        """Those figures of an architecture that have the names of these limits."""
        asked, found = set(names), dict[str, float]()
        if asked & {"size_mb", "params"}:
            config = self.config.with_architecture(architecture)
            found |= {"size_mb": stored_mb(config), "params": count_parameters(config)}
        if asked - found.keys():
            found |= asdict(profile.predict(architecture, exits))
        return found

    def violation(self, architecture: Architecture, exits: Sequence[float] = ()) -> float:
        """The excess over the budget that is nearest to being met; at most 0 if one of them is met.

        Where texts leave a network early is known once it is evaluated; before, all are taken to leave after the first
        layer.
        """
        exits = exits or _earliest(architecture)
        return min(self.excess(architecture, budget, exits) for budget in self.budgets)

    def check_feasible(self, space: SearchSpace) -> None:
        """Raise `InfeasibleBudgetError` for a budget that even the cheapest sub-networks miss."""
        for budget in self.budgets:
            profile = self.profiles[budget.device]
            for name, limit in budget.limits(profile.teacher_p50_ms).items():
                figure = partial(self._at_best, name, profile)
                found = figure(cheapest(space, figure))
                if name == "p50_ms":  # the smallest one was measured; another may be a little faster
                    found = min(found, profile.smallest_p50_ms)
                if found > limit:
                    raise InfeasibleBudgetError(
                        f"budgets.{budget.name}: {name} must be at least what the smallest sub-network takes, "
                        f"{found:.4g} (teacher p50: {profile.teacher_p50_ms:.4g} ms), but the limit is {limit:.4g}; "
                        "raise it, or use a smaller search space"
                    )

    def _at_best(self, name: str, profile: Profile, architecture: Architecture) -> float:
        """A figure that budgets limit, where all texts leave as early as they may."""
        return self._figures((name,), profile, architecture, _earliest(architecture))[name]

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
            if -0.3 <= self.excess(candidate, budget) <= 0.0 and candidate not in population:
                population.append(candidate)
            tries += 1
        return population


def _earliest(architecture: Architecture) -> tuple[float, ...]:
    """The shares of texts that leave after each layer, if all leave after the first that they can."""
    return (1.0,) if architecture.exit_threshold else ()
