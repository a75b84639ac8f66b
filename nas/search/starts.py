"""Initial designs of a guided search: mostly uniform networks, which an engineer would try first.

`Trials` proposes these `designs` before it uses the guided sampler.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product, zip_longest

from nas.architecture import LAYER_BLOCKS, Architecture, Layer
from nas.search.costs import Costs, cheapest
from nas.search.uniform import widths
from nas.space import SearchSpace

_SHARES = 3
"""The number of fractions of each budget, including the full budget, for which there are designs."""


def designs(space: SearchSpace, costs: Costs, count: int, rng: random.Random) -> list[Architecture]:
    """Return at most `count` designs: first the architecture that stays farthest below a budget, then uniform networks.

    The uniform networks are taken in turn from the lists of all budgets and fractions, and in random order from each
    list. If there are too few, random architectures that use much of a budget follow.
    """
    turns = [rng.sample(found, len(found)) for found in uniform(space, costs)]
    mixed = (one for turn in zip_longest(*turns) for one in turn if one)
    found = dict.fromkeys([cheapest(space, costs.least_violation), *mixed])
    if len(found) < count:
        found |= dict.fromkeys(costs.initial_population(space, count, rng))
    return list(found)[:count]


def uniform(space: SearchSpace, costs: Costs) -> list[list[Architecture]]:
    """Return one list for each budget and each fraction of it, with the widest uniform network for each set of layers.

    Lists that repeat an earlier list are left out.
    """
    alike = [(one, costs.cautious_violations(one)) for one in _alike(space)]
    found = list[list[Architecture]]()
    for place, share in product(range(len(costs.budgets)), costs.shares[:_SHARES]):
        within = (one for one, excesses in alike if 1.0 + excesses[place] <= share)
        widest = list({tuple(layer.source for layer in one.layers): one for one in within}.values())
        if widest not in found:
            found.append(widest)
    return found


def _alike(space: SearchSpace) -> Iterator[Architecture]:
    """Yield networks of full hidden size whose layers are all alike and whose blocks all use one compression method.

    Narrow networks come first, because `uniform` keeps the last network of each set of layers. Networks that differ
    only in the compression of the embeddings come in the reverse order of the search space's methods.
    """
    choices = space.compression
    for heads, neurons in widths(space):
        for choice in choices.attention:
            alike = Layer(0, heads, neurons, choice, choice)
            if all(alike.option(block) in space.options(block) for block in LAYER_BLOCKS):
                for kept, embedding in product(space.layer_sets, reversed(choices.embedding)):
                    layers = tuple(replace(alike, source=source) for source in kept)
                    yield Architecture(space.dimensions.hidden_size[-1], layers, embedding)
