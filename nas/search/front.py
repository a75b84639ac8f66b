"""The Pareto front of evaluated candidates, and who may serve a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from nas.budget import Budget, Floor
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
    """The candidates for a budget that were evaluated wholly, best first by the search's objective.

    Predictions err, so a predicted excess of up to `tolerance` is let through: measurement decides.
    """

    def excess(result: CandidateResult) -> float:
        return costs.excess(result.architecture, budget, result.exits)

    able = [result for result in results if result.complete and excess(result) <= tolerance]
    return sorted(able, key=lambda result: (-result.objective, excess(result)))


def cheapest_reaching(
    ranked: Sequence[CandidateResult], costs: Costs, floor: Floor, accuracy: float
) -> CandidateResult | None:
    """Of a budget's candidates the cheapest that has an accuracy; None if none has."""
    able = [result for result in ranked if result.accuracy >= accuracy]
    return min(able, key=lambda result: costs.minimised(result.architecture, floor, result.exits), default=None)


def along_the_front(ranked: Sequence[CandidateResult], costs: Costs, floor: Floor, count: int) -> list[CandidateResult]:
    """Of a budget's candidates at most `count` that may be the cheapest to keep its floor after their training.

    They are on the front of accuracy and cost, from the cheapest that is surely above the floor, or else the most
    accurate, to the cheapest of the lowest level; even by the logarithm of cost. Most accurate first.
    """

    cost = {one.architecture: costs.minimised(one.architecture, floor, one.exits) for one in ranked}
    front = pareto_front(ranked, lambda result: (cost[result.architecture],))
    sure = sum(result.accuracy >= floor.sure for result in front)
    reaching = sum(result.accuracy >= floor.levels[-1] for result in front)
    able = front[max(sure - 1, 0) : max(reaching, 1)]
    if len(able) <= max(count, 1):
        return able
    logs = [math.log(cost[result.architecture]) for result in able]
    chosen = list[CandidateResult]()
    for number in range(count):
        target = logs[0] + (logs[-1] - logs[0]) * number / max(count - 1, 1)
        left = [place for place, result in enumerate(able) if result not in chosen]
        chosen.append(able[min(left, key=lambda place: abs(logs[place] - target))])
    return sorted(chosen, key=lambda result: -result.accuracy)
