"""Levels: the points of the Pareto front that a guided search improves.

At an accuracy level, the search looks for the most accurate candidate within a fraction of a budget. At a cost level,
it looks for the cheapest candidate that meets a budget and reaches a certain accuracy. `Levels` holds the incumbents
and computes the expected improvement of candidates, which `guided.py` uses as its acquisition function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
from scipy.special import ndtr


class CostStanding(NamedTuple):
    """The predicted costs of candidates in relation to each level, one row per candidate."""

    within: np.ndarray
    """Whether a candidate is within the fraction of a budget that defines an accuracy level:
    (candidates, accuracy levels)."""
    savings: np.ndarray
    """log(teacher's cost / candidate's cost), or minus infinity if the candidate violates the budget:
    (candidates, cost levels)."""

    @classmethod
    def of(cls, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> Self:
        """Stack the rows, `(within, savings)`, of several candidates."""
        within, savings = zip(*rows, strict=True)
        return cls(np.stack(within), np.stack(savings))

    def at(self, indices: slice | list[int]) -> CostStanding:
        """Return the rows of the candidates at `indices`."""
        return CostStanding(self.within[indices], self.savings[indices])


class Levels:
    """The incumbent value at each level: first accuracies at the accuracy levels, then savings at the cost levels."""

    def __init__(self, best: np.ndarray, required_accuracies: np.ndarray) -> None:
        """Start from the accuracies `best`, (accuracy levels,), and from savings of zero at the cost levels.

        `required_accuracies` holds the accuracy that a candidate must reach at each cost level, (cost levels,).
        """
        self._required_accuracies = required_accuracies
        self.best = np.concatenate([best, np.zeros(len(required_accuracies))])

    def values_at(self, values: np.ndarray, standing: CostStanding) -> np.ndarray:
        """Return the value of each candidate at each level: (candidates, levels).

        `values` holds the accuracies of the candidates, (candidates,). The value at a level is minus infinity if the
        candidate does not meet the conditions of that level.
        """
        accuracies = np.where(standing.within, values[:, None], -np.inf)
        savings = np.where(values[:, None] >= self._required_accuracies, standing.savings, -np.inf)
        return np.hstack([accuracies, savings])

    def update(self, values: np.ndarray, standing: CostStanding) -> None:
        """Update the incumbents with candidates that have the accuracies `values`, (candidates,)."""
        self.best = np.maximum(self.best, self.values_at(values, standing).max(axis=0))

    def expected_improvement(
        self, mean: np.ndarray, standard_deviation: np.ndarray, standing: CostStanding
    ) -> np.ndarray:
        """Return the expected improvement of each candidate at each level: (candidates, levels).

        `mean` and `standard_deviation` are the posterior means and standard deviations of the accuracies,
        (candidates,). At a cost level, the expected improvement is the additional saving over the incumbent, times the
        probability that the candidate reaches the required accuracy.
        """
        count = standing.within.shape[1]
        spread = np.maximum(standard_deviation, 1e-9)[:, None]
        z_score = (mean[:, None] - self.best[:count]) / spread
        density = np.exp(-np.square(z_score) / 2.0) / math.sqrt(2.0 * math.pi)
        accuracy_gains = np.where(standing.within, spread * (z_score * ndtr(z_score) + density), 0.0)
        added_savings = np.maximum(standing.savings - self.best[count:], 0.0)
        return np.hstack([accuracy_gains, added_savings * ndtr((mean[:, None] - self._required_accuracies) / spread)])
