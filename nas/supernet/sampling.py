"""Sampling of the sub-networks for each step of a supernet's training.

`near_budgets`, `sandwich` and `in_stages` return `Draws`. The pipeline selects one of these functions by the study's
settings and passes its result to `Distillation.train_supernet`.
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Callable, Sequence
from typing import Literal

from nas.architecture import Architecture
from nas.space import SearchSpace

Draws = Callable[[int], list[Architecture]]
"""A function from the number of a step to the sub-networks that the step trains."""
Violation = Callable[[Architecture], float]
"""A function that returns the violation of a budget by a sub-network, relative to the limit: 0.1 means 10 % above
the limit, and -0.5 means that half of the limit is used.
"""

_NEAR_VIOLATIONS = (-0.5, 0.3)
"""The range of violations in which a sub-network is treated as near a budget."""
_POOL_SIZE = 1000
"""The number of sub-networks in the pool near each budget, from which the steps draw."""
_MAX_TRIES = 20_000
"""The maximum number of random sub-networks that are tried to fill such a pool."""
_SCARCE_SHARE = 0.05
"""If less than this share of the sub-networks tried so far is near the budget, every second try is a variant of a
sub-network in the pool or, while the pool is empty, of the nearest sub-network so far.
"""
_NEIGHBOURS = 10
"""A sub-network is drawn at random from this many entries of the pool on each side of the wanted budget use."""


def near_budgets(space: SearchSpace, violations: Sequence[Violation | None], count: int, seed: int) -> Draws:
    """Return draws of `count` random sub-networks per step. Each is near one budget, and the budgets take turns.

    Only sub-networks that a budget can select need good weights. Steps with small sub-networks are fast, and
    sub-networks of similar size conflict less over the weights that they share than sub-networks of very different
    sizes do. How much of the limit a sub-network should use is drawn uniformly on a logarithmic scale, from half of the
    limit to slightly above it, or from the range of the pool if that is smaller. For a budget without a limit (None in
    `violations`), or without any sub-network near it, sub-networks of all sizes are drawn.
    """
    pools = [_pool_near_budget(space, violation, seed) if violation else [] for violation in violations]
    low, high = (math.log(1.0 + violation) for violation in _NEAR_VIOLATIONS)

    def draw(step: int) -> list[Architecture]:
        rng = random.Random(f"{seed}/{step}")
        chosen = []
        for number in range(count):
            pool = pools[(step * count + number) % len(pools)]
            if not pool:
                chosen.append(space.sample(rng, rng.random()))
                continue
            wanted_use = rng.uniform(max(low, pool[0][0]), min(high, pool[-1][0]))
            index = bisect(pool, wanted_use, key=lambda entry: entry[0])
            chosen.append(rng.choice(pool[max(0, index - _NEIGHBOURS) : index + _NEIGHBOURS])[1])
        return chosen

    return draw


def _pool_near_budget(space: SearchSpace, violation: Violation, seed: int) -> list[tuple[float, Architecture]]:
    """Return random sub-networks near a budget, as pairs (logarithm of budget use, sub-network) in ascending order."""
    rng = random.Random(f"{seed}/near")
    violations, pool = dict[Architecture, float](), list[Architecture]()
    nearest, nearest_violation = space.smallest(), violation(space.smallest())
    for tries in range(_MAX_TRIES):
        if len(pool) == _POOL_SIZE:
            break
        mutates = len(pool) < _SCARCE_SHARE * tries and tries % 2
        drawn = space.mutate(rng.choice(pool or [nearest]), rng, 0.3) if mutates else space.sample(rng, rng.random())
        candidate_violation = violation(drawn)
        if abs(candidate_violation) < abs(nearest_violation):
            nearest, nearest_violation = drawn, candidate_violation
        if _NEAR_VIOLATIONS[0] <= candidate_violation <= _NEAR_VIOLATIONS[1] and drawn not in violations:
            violations[drawn] = candidate_violation
            pool.append(drawn)
    return sorted(((math.log(1.0 + value), drawn) for drawn, value in violations.items()), key=lambda entry: entry[0])


def sandwich(space: SearchSpace, random_subnets: int, sampling: Literal["spread", "uniform"], seed: int) -> Draws:
    """Return draws by the sandwich rule (Yu and Huang, arXiv:1903.05134): largest, smallest and random sub-networks.

    `uniform` draws every dimension independently, so that nearly all sub-networks are of medium size. `spread` first
    draws how large a sub-network should be. Each dimension by itself is still uniform, but the dimensions are
    correlated, so that small and large sub-networks are as frequent as medium ones.

    The sub-networks of a step depend only on the seed and the step's number, so a resumed run trains the same
    sub-networks as an uninterrupted one.
    """

    def draw(step: int) -> list[Architecture]:
        rng = random.Random(f"{seed}/{step}")
        drawn = (space.sample(rng, rng.random() if sampling == "spread" else None) for _ in range(random_subnets))
        return [space.largest(), space.smallest(), *drawn]

    return draw


def in_stages(space: SearchSpace, steps: int, draw: Callable[[SearchSpace], Draws]) -> Draws:
    """Return draws by progressive shrinking (Cai et al., arXiv:1908.09791), in three stages of equal length.

    In the first stage, hidden size, heads and neurons stay at their largest values. In the second stage, only the
    hidden size stays at its largest value. In the third stage, all dimensions vary. `draw` returns the draws for the
    search space of one stage.
    """
    draws = [draw(stage) for stage in _stages(space)]
    return lambda step: draws[min(len(draws) * step // steps, len(draws) - 1)](step)


def _stages(space: SearchSpace) -> list[SearchSpace]:
    sizes = space.dimensions.model_dump()

    def full(*names: str) -> SearchSpace:
        largest = {name: sizes[name][-1:] for name in names}
        return space.model_validate(space.model_dump() | {"dimensions": sizes | largest})

    return [full("hidden_size", "num_attention_heads", "intermediate_size"), full("hidden_size"), space]
