"""Levels: the points on the Pareto front that a guided search tries to improve.

At an accuracy level, the search looks for the most accurate candidate within a fraction of a budget. At a cost level,
the search looks for the cheapest candidate that meets a budget and reaches a certain accuracy. `Levels` stores the
incumbent (the best value so far) at each level, and computes the expected improvement of candidates. `guided.py` uses
the expected improvement as its acquisition function.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr


class CostStanding(NamedTuple):
    """Compares the predicted costs of candidates with the budgets. Each array has one row per candidate."""

    within: np.ndarray
    """Whether the costs of a candidate are within the fraction of the budget that defines an accuracy level.

    The shape is (candidates, accuracy levels).
    """
    savings: np.ndarray
    """log(teacher's cost / candidate's cost) at each cost level; minus infinity if the candidate violates the budget.

    The shape is (candidates, cost levels).
    """

    def at(self, indices: slice | list[int]) -> CostStanding:
        """Return the rows of the candidates at `indices`."""
        return CostStanding(self.within[indices], self.savings[indices])


class Levels:
    """The incumbent (the best value so far) at each level.

    `best` (levels,) contains first the accuracies at the accuracy levels, and then the savings at the cost levels.
    """

    def __init__(self, best: np.ndarray, required_accuracies: np.ndarray) -> None:
        """Start with the incumbents `best` (accuracy levels,) at the accuracy levels, and 0 at the cost levels.

        `required_accuracies` (cost levels,) is the accuracy that a candidate must reach at each cost level.
        """
        self._required_accuracies = required_accuracies
        self.best = np.concatenate([best, np.zeros(len(required_accuracies))])

    def values_at(self, values: np.ndarray, standing: CostStanding) -> np.ndarray:
        """Return the values (candidates, levels) of all candidates at all levels: accuracies or savings.

        `values` (candidates,) contains the accuracies of the candidates. The value at a level is minus infinity if the
        candidate violates the level's budget (or fraction of a budget), or does not reach the accuracy that the level
        requires.
        """
        accuracies = np.where(standing.within, values[:, None], -np.inf)
        savings = np.where(values[:, None] >= self._required_accuracies, standing.savings, -np.inf)
        return np.hstack([accuracies, savings])

    def update(self, values: np.ndarray, standing: CostStanding) -> None:
        """Replace the incumbent of each level at which a candidate is better.

        `values` (candidates,) contains the accuracies of the candidates.
        """
        self.best = np.maximum(self.best, self.values_at(values, standing).max(axis=0))

    def expected_improvement(
        self, mean: np.ndarray, standard_deviation: np.ndarray, standing: CostStanding
    ) -> np.ndarray:
        """Return the expected improvement (candidates, levels) of each candidate at each level.

        `mean` and `standard_deviation` (candidates,) describe the posterior distribution of each candidate's accuracy.
        At a cost level, the expected improvement is the amount by which the candidate's saving exceeds the incumbent,
        multiplied by the probability that the candidate reaches the required accuracy.
        """
        count = standing.within.shape[1]
        spread = np.maximum(standard_deviation, 1e-9)[:, None]
        z_score = (mean[:, None] - self.best[:count]) / spread
        density = np.exp(-np.square(z_score) / 2.0) / math.sqrt(2.0 * math.pi)
        accuracy_gains = np.where(standing.within, spread * (z_score * ndtr(z_score) + density), 0.0)
        added_savings = np.maximum(standing.savings - self.best[count:], 0.0)
        return np.hstack([accuracy_gains, added_savings * ndtr((mean[:, None] - self._required_accuracies) / spread)])
