"""Levels at which a front is looked at, what is best at each so far, and what a candidate is expected to add there.

A level of accuracy asks for the most accurate candidate that keeps a share of a budget. A level of cost asks for the
cheapest one that keeps a budget and reaches an accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
from scipy.special import ndtr


class Standing(NamedTuple):
    """Where candidates stand without their accuracy, a row for each."""

    keeps: np.ndarray
    """Whether each keeps the share of a budget that a level of accuracy is about: (candidates, accuracy levels)."""
    savings: np.ndarray
    """How much cheaper than the teacher it is, as a logarithm; minus infinity where it does not keep the budget:
    (candidates, cost levels)."""

    @classmethod
    def of(cls, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> Self:
        """The rows of several candidates."""
        keeps, savings = zip(*rows, strict=True)
        return cls(np.stack(keeps), np.stack(savings))

    def at(self, places: slice | list[int]) -> Standing:
        """Some of the rows."""
        return Standing(self.keeps[places], self.savings[places])


class Levels:
    """The best so far at each level, those of accuracy first: an accuracy, or the logarithm of what is saved."""

    def __init__(self, best: np.ndarray, reached: np.ndarray) -> None:
        """`best` has a value for each level of accuracy, (accuracy levels,); `reached` what must be reached at each
        level of cost, (cost levels,). There the teacher is the best at first, which saves nothing.
        """
        self._reached = reached
        self.best = np.concatenate([best, np.zeros(len(reached))])

    def found(self, values: np.ndarray, standing: Standing) -> np.ndarray:
        """What candidates of known accuracies are worth at each level; minus infinity where they do not count."""
        accuracies = np.where(standing.keeps, values[:, None], -np.inf)
        return np.hstack([accuracies, np.where(values[:, None] >= self._reached, standing.savings, -np.inf)])

    def take(self, values: np.ndarray, standing: Standing) -> None:
        """Take note of candidates with these accuracies."""
        self.best = np.maximum(self.best, self.found(values, standing).max(axis=0))

    def gain(self, mean: np.ndarray, doubt: np.ndarray, standing: Standing) -> np.ndarray:
        """The improvement that is expected of each candidate at each level: (candidates, levels)."""
        count = standing.keeps.shape[1]
        spread = np.maximum(doubt, 1e-9)[:, None]
        above = (mean[:, None] - self.best[:count]) / spread
        density = np.exp(-np.square(above) / 2.0) / math.sqrt(2.0 * math.pi)
        accuracy = np.where(standing.keeps, spread * (above * ndtr(above) + density), 0.0)
        saved = np.maximum(standing.savings - self.best[count:], 0.0)
        return np.hstack([accuracy, saved * ndtr((mean[:, None] - self._reached) / spread)])
