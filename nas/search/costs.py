"""What a candidate costs by prediction, and by how much it misses the budgets."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.architecture import Architecture
from nas.errors import InfeasibleBudgetError
from nas.latency import Profile
from nas.model import CompactBertConfig
from nas.model.sizes import count_parameters, stored_mb
from nas.space import SearchSpace
from nas.study import Budget

_TRIES = 20_000


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
        limits, figures = budget.latency_limits_ms(profile.teacher_p50_ms), profile.predict(architecture, exits)
        found = [getattr(figures, name) / limit - 1.0 for name, limit in limits.items()] or [-1.0]
        config = self.config.with_architecture(architecture) if budget.size_mb or budget.params else None
        if config and budget.size_mb:
            found.append(stored_mb(config) / budget.size_mb - 1.0)
        if config and budget.params:
            found.append(count_parameters(config) / budget.params - 1.0)
        return max(found)

    def violation(self, architecture: Architecture, exits: Sequence[float] = ()) -> float:
        """The excess over the budget that is nearest to being met; at most 0 if one of them is met.

        Where texts leave a network early is known once it is evaluated; before, all are taken to leave after the first
        layer.
        """
        if architecture.exit_threshold and not exits:
            exits = (1.0,)
        return min(self.excess(architecture, budget, exits) for budget in self.budgets)

    def check_feasible(self, space: SearchSpace) -> None:
        """Raise `InfeasibleBudgetError` for a budget that even the smallest sub-networks miss."""
        configs = [self.config.with_architecture(corner) for corner in space.corners()]
        for budget in self.budgets:
            profile = self.profiles[budget.device]
            # The smallest one was measured; another mix of choices may be a little faster.
            fastest = min(profile.smallest_p50_ms, *(profile.predict_ms(corner) for corner in space.corners()))
            checks = (
                *((name, fastest, limit) for name, limit in budget.latency_limits_ms(profile.teacher_p50_ms).items()),
                ("size_mb", min(map(stored_mb, configs)), budget.size_mb or float("inf")),
                ("params", min(map(count_parameters, configs)), budget.params or float("inf")),
            )
            for name, found, limit in checks:
                if found > limit:
                    raise InfeasibleBudgetError(
                        f"budgets.{budget.name}: {name} must be at least what the smallest sub-network takes, "
                        f"{found:.4g} (teacher p50: {profile.teacher_p50_ms:.4g} ms), but the limit is {limit:.4g}; "
                        "raise it, or use a smaller search space"
                    )

    def initial_population(self, space: SearchSpace, size: int, rng: random.Random) -> list[Architecture]:
        """Random architectures that use each budget well, in equal shares, and the fastest one."""
        population = [min(space.corners(), key=self.violation)]
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
