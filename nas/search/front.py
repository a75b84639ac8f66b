"""The Pareto front of evaluated candidates, and the best candidates for each budget.

The live view of a search uses these functions, and `selection.py` uses them to choose the candidates to measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from nas.budget import Budget, Floor
from nas.evaluate import CandidateResult
from nas.search.costs import Costs, weakly_dominates


def pareto_front(
    results: Sequence[CandidateResult], cost: Callable[[CandidateResult], tuple[float, ...]]
) -> list[CandidateResult]:
    """Return the results that no other dominates in accuracy and cost, most accurate first.

    Less `cost` is better. Of results with equal accuracy and cost, only the first is kept.
    """
    ordered = sorted(results, key=lambda result: (-result.accuracy, cost(result)))
    front: list[CandidateResult] = []
    for result in ordered:
        own = cost(result)
        if not any(weakly_dominates(cost(kept), own) for kept in front):
            front.append(result)
    return front


def ranking(
    results: Sequence[CandidateResult], costs: Costs, budget: Budget, tolerance: float
) -> list[CandidateResult]:
    """Return the completely evaluated candidates that may meet a budget, by descending objective.

    Predictions err, so a predicted violation of up to `tolerance` is accepted: measurements decide later.
    """

    def violation(result: CandidateResult) -> float:
        return costs.violation(result.architecture, budget, result.exits)

    able = [result for result in results if result.complete and violation(result) <= tolerance]
    return sorted(able, key=lambda result: (-result.objective, violation(result)))


def cheapest_reaching(
    ranked: Sequence[CandidateResult], costs: Costs, floor: Floor, accuracy: float
) -> CandidateResult | None:
    """Return the cheapest of a budget's candidates that reaches an accuracy; None if none does."""
    able = [result for result in ranked if result.accuracy >= accuracy]
    return min(able, key=lambda result: costs.minimised(result.architecture, floor, result.exits), default=None)


def along_the_front(ranked: Sequence[CandidateResult], costs: Costs, floor: Floor, count: int) -> list[CandidateResult]:
    """Return at most `count` of a budget's candidates that may become the cheapest to reach its accuracy floor.

    Whether they reach it is known only after their final training. All are on the front of accuracy and cost, evenly
    spaced by the logarithm of cost. They range from the cheapest that reaches `floor.sure` (or the most accurate if
    none does) to the cheapest that reaches the lowest of `floor.levels`. Most accurate first.
    """

    cost = {one.architecture: costs.minimised(one.architecture, floor, one.exits) for one in ranked}
    front = pareto_front(ranked, lambda result: (cost[result.architecture],))
    sure = sum(result.accuracy >= floor.confident for result in front)
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
