"""Networks that are as wide in every layer, as one cuts them by hand: what a search has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from nas.architecture import Architecture, Layer, compress_all
from nas.budget import Budget
from nas.compression import BLOCKS
from nas.evaluate import CandidateResult
from nas.progress import track
from nas.search.costs import Costs
from nas.space import SearchSpace, evenly_spaced

_KEPT = 3


def uniform_networks(space: SearchSpace, costs: Costs, budget: Budget) -> Iterator[Architecture]:
    """For each number of evenly spaced layers, hidden size and number format the widest that should keep a budget.

    Every layer has the same heads, about the same share of the teacher's intermediate size, and the format of all.
    """
    total = space.teacher.num_hidden_layers
    formats = [name for name in ("none", "int8") if all(name in getattr(space.compression, block) for block in BLOCKS)]
    for kept in (evenly_spaced(count, total) for count in range(1, total + 1)):
        for hidden_size, name in product(space.dimensions.hidden_size, formats):
            for heads in reversed(space.dimensions.num_attention_heads):
                found = compress_all(_cut(space, kept, hidden_size, heads), name)
                if space.contains(found) and costs.cautious_excess(found, budget) <= 0.0:
                    yield found
                    break


def _cut(space: SearchSpace, kept: tuple[int, ...], hidden_size: int, heads: int) -> Architecture:
    """Some layers of the teacher, each with some heads and the intermediate size that is nearest to their share."""
    wanted = space.teacher.intermediate_size * heads / space.teacher.num_attention_heads
    size = min(space.dimensions.intermediate_size, key=lambda size: abs(size - wanted))
    return Architecture(hidden_size, tuple(Layer(source, heads, size) for source in kept))


def best_uniform(
    evaluate: Callable[[Architecture, float], CandidateResult], space: SearchSpace, costs: Costs, budget: Budget
) -> list[CandidateResult]:
    """The most accurate of them, best first: some, since prediction errs about whether they keep the budget.

    `evaluate` gets an architecture and the accuracy below which it is of no use.
    """
    networks = list(uniform_networks(space, costs, budget))
    results: list[CandidateResult] = []
    with track(f"Evaluating uniform networks for {budget.name}", len(networks)) as progress:
        for number, architecture in enumerate(networks, 1):
            rival = sorted((result.accuracy for result in results), reverse=True)[_KEPT - 1 : _KEPT]
            result = evaluate(architecture, *rival or (0.0,))
            results += [result] if result.complete else []
            progress(number)
    return sorted(results, key=lambda result: -result.accuracy)[:_KEPT]
