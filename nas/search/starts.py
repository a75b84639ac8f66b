"""What a guided search starts from: designs that people would try first."""

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
"""So many of the shares of each budget have designs."""


def designs(space: SearchSpace, costs: Costs, count: int, rng: random.Random) -> list[Architecture]:
    """The architecture that is farthest within a budget, then uniform ones for each budget and shares of it, in turns.

    Which layers these keep is left to chance. Where they are too few, random ones that use the budgets well follow.
    """
    turns = [rng.sample(found, len(found)) for found in uniform(space, costs)]
    mixed = (one for turn in zip_longest(*turns) for one in turn if one)
    found = dict.fromkeys([cheapest(space, costs.violation), *mixed])
    if len(found) < count:
        found |= dict.fromkeys(costs.initial_population(space, count, rng))
    return list(found)[:count]


def uniform(space: SearchSpace, costs: Costs) -> list[list[Architecture]]:
    """The widest networks whose layers are alike: for each budget and share of it those of each set of layers."""
    alike = [(one, costs.cautious_excesses(one)) for one in _alike(space)]
    found = list[list[Architecture]]()
    for place, share in product(range(len(costs.budgets)), costs.shares[:_SHARES]):
        within = (one for one, excesses in alike if 1.0 + excesses[place] <= share)
        widest = list({tuple(layer.source for layer in one.layers): one for one in within}.values())
        if widest not in found:
            found.append(widest)
    return found


def _alike(space: SearchSpace) -> Iterator[Architecture]:
    """Networks of full hidden size whose layers are alike, with the same choice for both blocks; narrow ones first.

    Of equal width those with compressed embeddings first.
    """
    choices = space.compression
    for heads, neurons in widths(space):
        for choice in choices.attention:
            alike = Layer(0, heads, neurons, choice, choice)
            if all(alike.option(block) in space.options(block) for block in LAYER_BLOCKS):
                for kept, embedding in product(space.layer_sets, reversed(choices.embedding)):
                    layers = tuple(replace(alike, source=source) for source in kept)
                    yield Architecture(space.dimensions.hidden_size[-1], layers, embedding)
