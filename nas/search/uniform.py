"""The uniform baseline: networks with the same width in every layer, as an engineer would design them by hand.

A search has to beat these networks. `best_uniform` evaluates them, and `selection.py` measures the best of them
together with the candidates. The guided search takes its initial designs from similar networks (`starts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, product

from nas.architecture import Architecture, Layer, compress_all
from nas.budget import Budget
from nas.compression import BLOCKS
from nas.evaluate import CandidateResult
from nas.progress import track
from nas.search.costs import Costs
from nas.search.executors import Executor
from nas.space import SearchSpace, evenly_spaced

_KEPT = 3
"""The number of uniform networks that are kept per budget."""


def uniform_networks(space: SearchSpace, costs: Costs, budget: Budget) -> Iterator[Architecture]:
    """Yield the widest uniform networks that are predicted to meet a budget.

    There is at most one network for each combination of a number of evenly spaced layers, a hidden size and a number
    format. All its layers have the same number of heads, and an intermediate size that is about the same share of the
    teacher's.
    """
    widest_first = widths(space)[::-1]
    for kept, hidden_size, name in _kinds(space):
        for heads, size in widest_first:
            cut = Architecture(hidden_size, tuple(Layer(source, heads, size) for source in kept))
            found = compress_all(cut, name)
            if space.contains(found) and costs.cautious_violation(found, budget) <= 0.0:
                yield found
                break


def most_uniform(space: SearchSpace, budgets: int) -> int:
    """Return the maximum number of uniform networks that are evaluated for the given number of budgets."""
    return budgets * len(list(_kinds(space)))


def _kinds(space: SearchSpace) -> Iterator[tuple[tuple[int, ...], int, str]]:
    total = space.teacher.num_hidden_layers
    layers = [kept for count in range(1, total + 1) if (kept := evenly_spaced(count, total)) in space.layer_sets]
    formats = [name for name in ("none", "int8") if all(name in getattr(space.compression, block) for block in BLOCKS)]
    return product(layers, space.dimensions.hidden_size, formats)


def widths(space: SearchSpace) -> list[tuple[int, int]]:
    """Return pairs of a number of heads and an intermediate size that are about the same share of the teacher's.

    There is one pair for each number of heads, in ascending order.
    """
    unit, sizes = space.teacher.intermediate_size / space.teacher.num_attention_heads, space.dimensions

    def nearest(wanted: float) -> int:
        return min(sizes.intermediate_size, key=lambda size: abs(size - wanted))

    return [(heads, nearest(unit * heads)) for heads in sizes.num_attention_heads]


def every_uniform(space: SearchSpace, costs: Costs) -> list[Architecture]:
    """Return the uniform networks of all budgets without an accuracy floor, without repetition."""
    return list(dict.fromkeys(chain.from_iterable(_by_budget(space, costs).values())))


def _by_budget(space: SearchSpace, costs: Costs) -> dict[str, list[Architecture]]:
    limited = (budget for budget in costs.budgets if not budget.has_floor)
    return {budget.name: list(uniform_networks(space, costs, budget)) for budget in limited}


def best_uniform(
    make_executor: Callable[[], Executor], space: SearchSpace, costs: Costs
) -> dict[str, list[CandidateResult]]:
    """Evaluate the uniform networks, and return the best ones of each budget, the best first.

    Several networks are kept per budget, because a network that is predicted to meet a budget may miss it when it is
    measured. Budgets with an accuracy floor are left out, because their networks are not compared at a given cost. The
    networks are evaluated like candidates, by an executor that is created only if there are networks. A network that
    belongs to several budgets is evaluated once.
    """
    networks = _by_budget(space, costs)
    every = every_uniform(space, costs)
    best = {name: list[CandidateResult]() for name in networks}
    if not every:
        return best
    handed = 0
    with make_executor() as executor, track("Evaluating uniform networks", len(every)) as progress:
        for done in range(1, len(every) + 1):
            while handed < len(every) and handed - done < executor.capacity - 1:
                executor.submit(handed, every[handed], _rival(every[handed], networks, best))
                handed += 1
            number, result = executor.next_result()
            for name in _asking(every[number], networks) if result.complete else ():
                best[name] = sorted([*best[name], result], key=lambda result: -result.objective)[:_KEPT]
            progress(done)
    return best


def _asking(architecture: Architecture, networks: Mapping[str, Sequence[Architecture]]) -> list[str]:
    """Return the names of the budgets for which a network is evaluated."""
    return [name for name, found in networks.items() if architecture in found]


def _rival(
    architecture: Architecture,
    networks: Mapping[str, Sequence[Architecture]],
    best: Mapping[str, Sequence[CandidateResult]],
) -> float:
    """Return the objective that a network must exceed to be kept for at least one of its budgets."""
    asking = _asking(architecture, networks)
    return min(best[name][-1].objective if len(best[name]) == _KEPT else 0.0 for name in asking)
