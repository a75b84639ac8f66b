"""The uniform baseline: networks with the same width in every layer, as an engineer would design them by hand.

A search has to beat these networks. `best_uniform` evaluates them, and `selection.py` measures the best ones together
with the candidates. The guided search starts with similar networks (`starts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, product

from nas.architecture import Architecture, Layer, compress_all
from nas.budget import Budget
from nas.compression import BLOCKS, EIGHT_BIT
from nas.evaluate import CandidateResult
from nas.progress import track
from nas.search.costs import Costs
from nas.search.executors import Executor, evaluate_all
from nas.space import SearchSpace, evenly_spaced

_KEPT_PER_BUDGET = 3
"""The maximum number of uniform networks that `best_uniform` returns per budget."""


def uniform_networks(space: SearchSpace, costs: Costs, budget: Budget) -> Iterator[Architecture]:
    """Yield uniform networks that are predicted to meet a budget, each as wide as possible.

    There is at most one network for each combination of depth and hidden size. The layers of a network are evenly
    spaced in the teacher, and have the same number of heads and the same intermediate size (see `widths`). The layers
    are compressed to 8 bits if wider layers then meet the budget than without compression.
    """
    widest_first, formats = widths(space)[::-1], _formats(space)
    for kept, hidden_size in _combinations(space):
        uncompressed = (
            Architecture(hidden_size, tuple(Layer(source, heads, size) for source in kept))
            for heads, size in widest_first
        )
        networks = (compress_all(network, name) for network in uncompressed for name in formats)
        fitting = (
            network
            for network in networks
            if space.contains(network) and costs.cautious_violation(network, budget) <= 0.0
        )
        yield from islice(fitting, 1)


def most_uniform(space: SearchSpace, budgets: int) -> int:
    """Return the maximum number of uniform networks that are evaluated for this number of budgets."""
    return budgets * len(list(_combinations(space)))


def _combinations(space: SearchSpace) -> Iterator[tuple[tuple[int, ...], int]]:
    total = space.teacher.num_hidden_layers
    layers = [kept for count in range(1, total + 1) if (kept := evenly_spaced(count, total)) in space.layer_sets]
    return product(layers, space.dimensions.hidden_size)


def _formats(space: SearchSpace) -> list[str]:
    return [name for name in ("none", *EIGHT_BIT) if all(name in getattr(space.compression, block) for block in BLOCKS)]


def widths(space: SearchSpace) -> list[tuple[int, int]]:
    """Return (number of heads, intermediate size) pairs in which both are about the same fraction of the teacher's.

    There is one pair for each number of heads in the search space, in ascending order.
    """
    neurons_per_head, sizes = space.teacher.intermediate_size / space.teacher.num_attention_heads, space.dimensions

    def nearest(target: float) -> int:
        return min(sizes.intermediate_size, key=lambda size: abs(size - target))

    return [(heads, nearest(neurons_per_head * heads)) for heads in sizes.num_attention_heads]


def every_uniform(space: SearchSpace, costs: Costs) -> dict[Architecture, list[str]]:
    """Return the uniform networks for all budgets that have no accuracy floor, each with the names of its budgets."""
    networks = dict[Architecture, list[str]]()
    for budget in costs.budgets:
        if not budget.has_floor:
            for network in uniform_networks(space, costs, budget):
                networks.setdefault(network, []).append(budget.name)
    return networks


def best_uniform(
    make_executor: Callable[[], Executor], space: SearchSpace, costs: Costs
) -> dict[str, list[CandidateResult]]:
    """Evaluate the uniform networks, and return a list of the best ones for each budget, keyed by budget name.

    Each list has at most `_KEPT_PER_BUDGET` networks, best first. Several networks are kept, because a network that is
    predicted to meet a budget may violate it in the measurement. Budgets with an accuracy floor are left out, because
    they do not define a cost at which networks can be compared. `make_executor` is called only if there are networks to
    evaluate. A network that belongs to several budgets is evaluated once.
    """
    budgets_of = every_uniform(space, costs)
    best = {budget.name: list[CandidateResult]() for budget in costs.budgets if not budget.has_floor}
    if not budgets_of:
        return best

    def objective_to_exceed(network: Architecture) -> float:
        """Return the objective that a network must exceed to be among the best ones of at least one of its budgets."""
        lists = (best[name] for name in budgets_of[network])
        return min(found[-1].objective if len(found) == _KEPT_PER_BUDGET else 0.0 for found in lists)

    with make_executor() as executor, track("Evaluating uniform networks", len(budgets_of)) as progress:
        for done, result in enumerate(evaluate_all(executor, list(budgets_of), objective_to_exceed), start=1):
            for name in budgets_of[result.architecture] if result.complete else ():
                best[name] = sorted([*best[name], result], key=lambda result: -result.objective)[:_KEPT_PER_BUDGET]
            progress(done)
    return best
