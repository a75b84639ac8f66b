"""Initial candidates of a guided search: mostly uniform networks (with equal layers), as an engineer would try first.

`Trials` proposes the networks that `designs` returns before it uses the guided sampler.
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

_SHARE_COUNT = 3
"""How many of the fractions in `Costs.shares` are used, starting with the full budget."""


def designs(space: SearchSpace, costs: Costs, count: int, rng: random.Random) -> list[Architecture]:
    """Return at most `count` architectures with which a guided search starts.

    The first is the architecture with the smallest `Costs.least_violation`. The next ones are drawn at random from the
    lists that `uniform` returns, one from each list in turn. If these lists contain too few networks, architectures
    from `Costs.initial_population` are added.
    """
    shuffled = [rng.sample(networks, len(networks)) for networks in uniform(space, costs)]
    mixed = (network for networks in zip_longest(*shuffled) for network in networks if network)
    chosen = dict.fromkeys([cheapest(space, costs.least_violation), *mixed])
    if len(chosen) < count:
        chosen |= dict.fromkeys(costs.initial_population(space, count, rng))
    return list(chosen)[:count]


def uniform(space: SearchSpace, costs: Costs) -> list[list[Architecture]]:
    """Return a list of uniform networks, whose layers are all alike, for each budget and each fraction of it.

    The fractions are the first `_SHARE_COUNT` values of `Costs.shares`. For each set of layers, a list contains the
    widest network whose predicted costs are within this fraction of the budget. A list that equals an earlier list is
    left out.
    """
    candidates = [(candidate, costs.cautious_violations(candidate)) for candidate in _uniform_candidates(space)]
    lists = list[list[Architecture]]()
    for index, share in product(range(len(costs.budgets)), costs.shares[:_SHARE_COUNT]):
        within = (candidate for candidate, violations in candidates if 1.0 + violations[index] <= share)
        widest = list({tuple(layer.source for layer in candidate.layers): candidate for candidate in within}.values())
        if widest not in lists:
            lists.append(widest)
    return lists


def _uniform_candidates(space: SearchSpace) -> Iterator[Architecture]:
    """Yield networks of the largest hidden size whose layers are all alike, with the same compression in both blocks.

    Narrow networks come first, because `uniform` keeps the last network for each set of layers. For the same reason,
    the compression methods of the embeddings are in reverse order, so that the first one in the search space takes
    precedence.
    """
    methods = space.compression
    for heads, neurons in widths(space):
        for method in methods.attention:
            template = Layer(0, heads, neurons, method, method)
            if all(template.option(block) in space.options(block) for block in LAYER_BLOCKS):
                for kept, embedding in product(space.layer_sets, reversed(methods.embedding)):
                    layers = tuple(replace(template, source=source) for source in kept)
                    yield Architecture(space.dimensions.hidden_size[-1], layers, embedding)
