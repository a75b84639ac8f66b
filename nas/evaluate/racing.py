"""Racing: stops the evaluation of a candidate if its objective almost certainly stays below the objective to beat.

`Evaluator` uses a `Race` to check this after each batch of texts.
"""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 3.0
"""A candidate has lost if its estimate plus this many standard errors is below the value to beat."""
_VARIANCE_PRIOR = 4.0
"""A constant that is added to the sum of squared differences.

Without this constant, the variance would be 0 as long as no difference has been observed.
"""
_MIN_SHARE = 0.1
"""The share of examples that must be evaluated before a candidate can lose."""


class Race:
    """Compares a candidate, example by example, with the mean of all completely evaluated candidates.

    The value of an example is a number from 0 (wrong) to 1 (right). Because only differences from the mean count, it
    does not matter which examples are easy for all candidates. The standard error is small, because candidates differ
    on few examples.
    """

    def __init__(self, examples: int) -> None:
        self._value_sums = np.zeros(examples)
        self._candidates = 0

    def add(self, values: np.ndarray) -> None:
        """Add a complete evaluation. `values` (examples,) holds numbers from 0 to 1, or truth values."""
        self._value_sums += values
        self._candidates += 1

    def estimate(self, rows: np.ndarray, values: np.ndarray) -> tuple[float, float]:
        """Estimate a candidate's mean value over all examples. Return the estimate and its standard error.

        `values` holds the candidate's values for the examples with the indices `rows`. Both have the shape (rows,). The
        standard error is 1 until a complete evaluation has been added.
        """
        examples = len(self._value_sums)
        if not self._candidates:
            return float(values.mean()), 1.0
        means = self._value_sums / self._candidates
        difference = values - means[rows]
        share_left = 1.0 - len(rows) / examples
        variance = (float(difference.var()) * len(rows) + _VARIANCE_PRIOR) / len(rows)
        error = math.sqrt(variance / len(rows) * share_left)
        return float(means.mean() + difference.mean()), error

    def is_lost(self, rows: np.ndarray, values: np.ndarray, to_beat: float) -> bool:
        """Whether it is almost certain that a candidate's mean value over all examples is less than `to_beat`."""
        if len(rows) < max(2.0, _MIN_SHARE * len(self._value_sums)):
            return False
        accuracy, error = self.estimate(rows, values)
        return accuracy + CONFIDENCE * error < to_beat
