"""Which sub-networks a training step works on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from nas.architecture import Architecture
from nas.space import SearchSpace

Sampling = Literal["uniform", "spread"]


def sandwich(
    space: SearchSpace, random_subnets: int, sampling: Sampling, seed: int
) -> Callable[[int], list[Architecture]]:
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


def in_stages(
    space: SearchSpace, steps: int, draw: Callable[[SearchSpace], Callable[[int], list[Architecture]]]
) -> Callable[[int], list[Architecture]]:
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
