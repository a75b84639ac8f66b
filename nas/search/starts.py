"""Designs that a search starts from: those that people would try first."""

from __future__ import annotations

from collections.abc import Iterator

from nas.architecture import Architecture, Layer
from nas.search.costs import Costs
from nas.space import SearchSpace


def uniform(space: SearchSpace, costs: Costs) -> list[Architecture]:
    """For each budget and each set of layers the widest network within it whose layers are all alike."""
    found: dict[Architecture, None] = {}
    for place in range(len(costs.budgets)):
        widest: dict[tuple[int, ...], Architecture] = {}
        for kept, architecture in _alike(space):
            if costs.cautious_excesses(architecture)[place] <= 0.0:
                widest[kept] = architecture
        found |= dict.fromkeys(widest.values())
    return list(found)


def _alike(space: SearchSpace) -> Iterator[tuple[tuple[int, ...], Architecture]]:
    """Networks of layers that are alike, by the layers that they keep; of each set the narrowest first."""
    shape, sizes = space.teacher, space.dimensions
    shares = sorted(heads / shape.num_attention_heads for heads in sizes.num_attention_heads)
    for kept in space.layer_sets:
        for share in shares:
            neurons = min(sizes.intermediate_size, key=lambda size: abs(size / shape.intermediate_size - share))
            options = {"attention": round(share * shape.num_attention_heads), "feed_forward": neurons}
            for choice in space.compression.attention:
                chosen = {block: (size, choice) for block, size in options.items()}
                if all(option in space.options(block) for block, option in chosen.items()):
                    layers = tuple(Layer(source, options["attention"], neurons, choice, choice) for source in kept)
                    yield kept, Architecture(sizes.hidden_size[-1], layers, space.compression.embedding[0])
