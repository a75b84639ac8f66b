"""Sampling of the sub-networks that a supernet trains in each step.

`near_budgets`, `sandwich` and `in_stages` each return a function of type `Draws`. The pipeline chooses among them
according to the study's settings, and passes the result to `Distillation.train_supernet`.
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
"""A function that returns the sub-networks to train in a step, given the number of the step."""
Violation = Callable[[Architecture], float]
"""A function that returns by how much a sub-network exceeds the limit of a budget, relative to the limit. For example,
0.1 means 10 % above the limit, and -0.5 means half of the limit.
"""

_NEAR_VIOLATIONS = (-0.5, 0.3)
"""A sub-network is near a budget if its violation is in this range."""
_POOL_SIZE = 1000
"""The maximum number of sub-networks near a budget that are collected in a pool. The training steps draw from this
pool.
"""
_MAX_TRIES = 20_000
"""The maximum number of random sub-networks that are tried to fill a pool."""
_SCARCE_SHARE = 0.05
"""If less than this fraction of the sub-networks tried so far is in the pool, every second sub-network is a mutant
instead of a random one. It is a mutant of a random sub-network of the pool or, while the pool is empty, of the
sub-network that is nearest to the budget so far.
"""
_NEIGHBOURS = 10
"""The pool is sorted by cost. A sub-network is drawn at random from this many entries on each side of the target cost.
"""


def near_budgets(space: SearchSpace, violations: Sequence[Violation | None], count: int, seed: int) -> Draws:
    """Return a function that draws `count` random sub-networks per step. Each one is near a budget.

    Only sub-networks near a budget can be selected, so only they need good weights. If the budgets are tight, these are
    small, so training steps are fast. Sub-networks of similar size also conflict less over their shared weights than
    sub-networks of very different sizes.

    Sub-networks are drawn for each budget in turn. For each of them, a target cost is drawn log-uniformly from half of
    the budget's limit to slightly above the limit. If the pool covers only a part of this range, the target cost is
    drawn from that part. If a budget has no limit (None in `violations`), or if no sub-network is near it, sub-networks
    of all sizes are drawn.
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
    """Return random sub-networks near a budget as pairs (log(cost / limit), sub-network), cheapest first."""
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
    """Return a function that draws by the sandwich rule (Yu and Huang, arXiv:1903.05134).

    Each step trains the largest sub-network, the smallest sub-network and `random_subnets` random ones. If `sampling`
    is `uniform`, every dimension is drawn independently, so nearly all random sub-networks are of medium size. If it is
    `spread`, the size of a sub-network is drawn first, and all its dimensions are drawn around this size. Small and
    large sub-networks are then as frequent as medium ones, while each single dimension is still uniformly distributed.

    The sub-networks of a step depend only on the seed and the step's number, so a resumed run trains the same
    sub-networks as an uninterrupted one.
    """

    def draw(step: int) -> list[Architecture]:
        rng = random.Random(f"{seed}/{step}")
        drawn = (space.sample(rng, rng.random() if sampling == "spread" else None) for _ in range(random_subnets))
        return [space.largest(), space.smallest(), *drawn]

    return draw


def in_stages(space: SearchSpace, steps: int, draw: Callable[[SearchSpace], Draws]) -> Draws:
    """Return a function that draws by progressive shrinking (Cai et al., arXiv:1908.09791).

    Training has `steps` steps and three stages of equal length. In the first stage, hidden size, heads and neurons stay
    at their largest values. In the second stage, only the hidden size stays at its largest value. In the third stage,
    all dimensions vary. `draw` returns the function that draws in one stage, given the search space of that stage.
    """
    draws = [draw(stage) for stage in _stages(space)]
    return lambda step: draws[min(len(draws) * step // steps, len(draws) - 1)](step)


def _stages(space: SearchSpace) -> list[SearchSpace]:
    sizes = space.dimensions.model_dump()

    def full(*names: str) -> SearchSpace:
        largest = {name: sizes[name][-1:] for name in names}
        return space.model_validate(space.model_dump() | {"dimensions": sizes | largest})

    return [full("hidden_size", "num_attention_heads", "intermediate_size"), full("hidden_size"), space]
