"""Which sub-networks a training step works on."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Callable, Sequence
from typing import Literal

from nas.architecture import Architecture
from nas.space import SearchSpace

Draws = Callable[[int], list[Architecture]]
"""The sub-networks that a step of this number trains."""
Excess = Callable[[Architecture], float]
"""By how much a sub-network misses a budget, relative to the limit: 0.1 is a tenth too much, -0.5 half of the limit."""

_NEAR = (-0.5, 0.3)
"""The excess of a sub-network that is near a budget."""
_POOL = 1000
"""So many sub-networks near a budget are drawn from."""
_TRIES = 20_000
"""So many random sub-networks are tried for that, at most."""
_SCARCE = 0.05
"""Where a smaller share of the random ones is near a budget, variants of those that are near it are tried too."""
_NEIGHBOURS = 10
"""Sub-networks whose excess is next to the one that is wanted, to either side, among which one is drawn."""


def near_budgets(space: SearchSpace, excesses: Sequence[Excess | None], count: int, seed: int) -> Draws:
    """`count` random sub-networks a step, near each of the budgets in turn.

    Only what a budget can choose needs good weights. A step with small sub-networks is fast, and sub-networks that are
    alike in size disagree less about the weights that they share. How much of a budget they take is drawn evenly on a
    logarithmic scale, from half of the limit to a little more than all of it, as far as sub-networks reach. Those for a
    budget without a limit, which is None among the `excesses`, and for one that nothing is near, are of any size.
    """
    pools = [_pool(space, excess, seed) if excess else [] for excess in excesses]
    low, high = (math.log(1.0 + excess) for excess in _NEAR)

    def at(step: int) -> list[Architecture]:
        rng = random.Random(f"{seed}/{step}")
        chosen = []
        for number in range(count):
            pool = pools[(step * count + number) % len(pools)]
            if not pool:
                chosen.append(space.sample(rng, rng.random()))
                continue
            wanted = rng.uniform(max(low, pool[0][0]), min(high, pool[-1][0]))
            place = bisect(pool, wanted, key=lambda entry: entry[0])
            chosen.append(rng.choice(pool[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS])[1])
        return chosen

    return at


def _pool(space: SearchSpace, excess: Excess, seed: int) -> list[tuple[float, Architecture]]:
    """Random sub-networks near a budget with the logarithm of what they take of it, in ascending order."""
    rng = random.Random(f"{seed}/near")
    found, members = dict[Architecture, float](), list[Architecture]()
    nearest, least = space.smallest(), excess(space.smallest())
    for tried in range(_TRIES):
        if len(members) == _POOL:
            break
        varied = len(members) < _SCARCE * tried and tried % 2
        drawn = space.mutate(rng.choice(members or [nearest]), rng, 0.3) if varied else space.sample(rng, rng.random())
        value = excess(drawn)
        if abs(value) < abs(least):
            nearest, least = drawn, value
        if _NEAR[0] <= value <= _NEAR[1] and drawn not in found:
            found[drawn] = value
            members.append(drawn)
    return sorted(((math.log(1.0 + value), drawn) for drawn, value in found.items()), key=lambda entry: entry[0])


def sandwich(space: SearchSpace, random_subnets: int, sampling: Literal["spread", "uniform"], seed: int) -> Draws:
    """The sandwich rule (Yu and Huang, arXiv:1903.05134): the largest, the smallest and random ones.

    `uniform` draws every dimension independently, so that nearly all draws are of middle size. `spread` first
    draws how large the sub-network is to be: each dimension alone is still uniform, but they agree, and the light
    and the heavy end of the space come as often as the middle.

    What a step trains depends on the seed and the step's number alone, so that a resumed run goes on alike.
    """

    def at(step: int) -> list[Architecture]:
        rng = random.Random(f"{seed}/{step}")
        drawn = (space.sample(rng, rng.random() if sampling == "spread" else None) for _ in range(random_subnets))
        return [space.largest(), space.smallest(), *drawn]

    return at


def in_stages(space: SearchSpace, steps: int, draw: Callable[[SearchSpace], Draws]) -> Draws:
    """Progressive shrinking (Cai et al., arXiv:1908.09791): a third of the steps each for spaces that widen.

    Depth alone varies first, then heads and neurons too, then all. `draw` gives the draws of one space.
    """
    draws = [draw(stage) for stage in _stages(space)]
    return lambda step: draws[min(len(draws) * step // steps, len(draws) - 1)](step)


def _stages(space: SearchSpace) -> list[SearchSpace]:
    sizes = space.dimensions.model_dump()

    def full(*names: str) -> SearchSpace:
        largest = {name: sizes[name][-1:] for name in names}
        return space.model_validate(space.model_dump() | {"dimensions": sizes | largest})

    return [full("hidden_size", "num_attention_heads", "intermediate_size"), full("hidden_size"), space]
