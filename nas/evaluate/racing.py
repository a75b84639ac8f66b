"""Racing: a candidate that with high confidence cannot beat its rival is not evaluated to the end."""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 3.0
"""So many standard errors above its estimate a candidate may yet end."""
_UNSEEN = 4.0
"""So many differences more are reckoned with than were seen: none so far does not mean that there are none."""
_FEWEST = 0.1
"""The share of examples that is looked at in any case."""


class Race:
    """Knows how the candidates that were evaluated wholly did on each example, from 0 for wrong to 1 for right.

    What a candidate does is compared with their mean, example by example: which examples are easy does not count then,
    and few of them tell candidates apart.
    """

    def __init__(self, examples: int) -> None:
        self._right = np.zeros(examples)
        self._candidates = 0

    def add(self, right: np.ndarray) -> None:
        """Take note of a whole evaluation: for each example a value from 0 to 1, or whether it was right."""
        self._right += right
        self._candidates += 1

    def estimate(self, rows: np.ndarray, right: np.ndarray) -> tuple[float, float]:
        """The mean that a candidate will end with, and its standard error, from its values on some rows."""
        examples = len(self._right)
        if not self._candidates:
            return float(right.mean()), 1.0
        usual = self._right / self._candidates
        difference = right - usual[rows]
        left = 1.0 - len(rows) / examples
        variance = (float(difference.var()) * len(rows) + _UNSEEN) / len(rows)
        error = math.sqrt(variance / len(rows) * left)
        return float(usual.mean() + difference.mean()), error

    def is_lost(self, rows: np.ndarray, right: np.ndarray, rival: float) -> bool:
        """Whether a candidate cannot reach a mean."""
        if len(rows) < max(2.0, _FEWEST * len(self._right)):
            return False
        accuracy, error = self.estimate(rows, right)
        return accuracy + CONFIDENCE * error < rival
