"""The Pareto front of evaluated candidates, and who may serve a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nas.budget import Budget
from nas.evaluate import CandidateResult
from nas.search.costs import Costs, no_dearer


def pareto_front(
    results: Sequence[CandidateResult], cost: Callable[[CandidateResult], tuple[float, ...]]
) -> list[CandidateResult]:
    """The results that no other beats: none is at least as accurate at no more cost, and better in one of them.

    Most accurate first; of equals the first one stays.
    """
    ordered = sorted(results, key=lambda result: (-result.accuracy, cost(result)))
    front: list[CandidateResult] = []
    for result in ordered:
        own = cost(result)
        if not any(no_dearer(cost(kept), own) for kept in front):
            front.append(result)
    return front


def ranking(
    results: Sequence[CandidateResult], costs: Costs, budget: Budget, tolerance: float
) -> list[CandidateResult]:
    """The candidates for a budget that were evaluated wholly, most accurate first.

    Predictions err, so a predicted excess of up to `tolerance` is let through: measurement decides.
    """

    def excess(result: CandidateResult) -> float:
        return costs.excess(result.architecture, budget, result.exits)

    able = [result for result in results if result.complete and excess(result) <= tolerance]
    return sorted(able, key=lambda result: (-result.accuracy, excess(result)))
