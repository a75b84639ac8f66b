"""Functions that find the Pareto front of evaluated candidates, and the best candidates for each budget.

`view.py` calls these functions to display a running search, and `selection.py` to choose the candidates to measure.
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
    """Return the results that no other result dominates in accuracy and cost, in descending order of accuracy.

    `cost` returns a tuple of costs, for which lower values are better. If several results have equal accuracy and
    costs, only the first of them is returned.
    """
    ordered = sorted(results, key=lambda result: (-result.accuracy, cost(result)))
    front: list[CandidateResult] = []
    for result in ordered:
        result_cost = cost(result)
        if not any(weakly_dominates(cost(kept), result_cost) for kept in front):
            front.append(result)
    return front


def ranking(
    results: Sequence[CandidateResult], costs: Costs, budget: Budget, tolerance: float
) -> list[CandidateResult]:
    """Return the candidates that may meet a budget, in descending order of objective.

    Candidates whose evaluation was stopped early are left out. Because predictions have errors, a candidate may have a
    predicted violation of up to `tolerance`. Later measurements show which candidates meet the budget.
    """

    def violation(result: CandidateResult) -> float:
        return costs.violation(result.architecture, budget, result.exits)

    candidates = [result for result in results if result.complete and violation(result) <= tolerance]
    return sorted(candidates, key=lambda result: (-result.objective, violation(result)))


def cheapest_reaching(
    ranked: Sequence[CandidateResult], costs: Costs, floor: Floor, accuracy: float
) -> CandidateResult | None:
    """Return the cheapest candidate in `ranked` whose accuracy is at least `accuracy`, or None if there is none.

    The cheapest candidate is the one with the lowest predicted value of `floor.minimise`.
    """
    reaching = [result for result in ranked if result.accuracy >= accuracy]
    return min(reaching, key=lambda result: costs.minimised(result.architecture, floor, result.exits), default=None)


def along_the_front(ranked: Sequence[CandidateResult], costs: Costs, floor: Floor, count: int) -> list[CandidateResult]:
    """Return up to `count` candidates to measure for a budget with an accuracy floor, in descending order of accuracy.

    Only the final training shows which network is the cheapest one that reaches the floor. Therefore, several
    candidates along the Pareto front of accuracy and cost are chosen, about evenly spaced by the logarithm of the cost.
    The first is the cheapest candidate that reaches the accuracy `floor.confident`, or the most accurate candidate if
    none reaches this accuracy. The last is the cheapest candidate that reaches the lowest accuracy in `floor.levels`.
    """

    cost = {result.architecture: costs.minimised(result.architecture, floor, result.exits) for result in ranked}
    front = pareto_front(ranked, lambda result: (cost[result.architecture],))
    confident_count = sum(result.accuracy >= floor.confident for result in front)
    reaching_count = sum(result.accuracy >= floor.levels[-1] for result in front)
    eligible = front[max(confident_count - 1, 0) : max(reaching_count, 1)]
    if len(eligible) <= max(count, 1):
        return eligible
    log_costs = [math.log(cost[result.architecture]) for result in eligible]
    chosen = list[CandidateResult]()
    for number in range(count):
        target = log_costs[0] + (log_costs[-1] - log_costs[0]) * number / max(count - 1, 1)
        indices_left = [index for index, result in enumerate(eligible) if result not in chosen]
        chosen.append(eligible[min(indices_left, key=lambda index: abs(log_costs[index] - target))])
    return sorted(chosen, key=lambda result: -result.accuracy)
