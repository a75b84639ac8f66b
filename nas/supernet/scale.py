"""The scale of a regression's outputs, which trainings see standardised.

Learning rates and loss weights suit outputs of mean 0 and deviation 1. A training therefore takes the scale of the
data out of the last linear layer, and puts it back when it ends: a model outside of a training gives numbers on the
scale of the data, in whatever form it is exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

_INFORMATIVE = 0.3
"""Outputs that correlate with the targets at least this much are worth starting from."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of outputs."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Scale:
        """The scale of some numbers; if they are all equal their deviation counts as 1."""
        numbers = np.asarray(values, dtype=np.float64)
        return cls(float(numbers.mean()), float(numbers.std()) or 1.0)

    @classmethod
    def to_begin_with(cls, outputs: np.ndarray, targets: Sequence[float]) -> Scale:
        """What to take out of a model with these outputs before it is trained on standardised targets.

        That is the scale of its outputs, whatever targets it was trained on before. But outputs that say nothing about
        the targets, as those of a newly drawn layer, are not made larger.
        """
        own = cls.of(outputs)
        if own.deviation < 1.0 and abs(_correlation(outputs, np.asarray(targets))) < _INFORMATIVE:
            return cls(own.mean)
        return own

    def standardised(self, values: Sequence[float]) -> list[float]:
        """Numbers of this scale on that of mean 0 and deviation 1."""
        found: list[float] = ((np.asarray(values, dtype=np.float64) - self.mean) / self.deviation).tolist()
        return found

    @torch.no_grad()
    def put_into(self, linear: nn.Linear) -> None:
        """Let a layer whose outputs are standardised give them on this scale."""
        _assign(linear, self.deviation, self.mean, 0.0)

    @torch.no_grad()
    def take_out_of(self, linear: nn.Linear) -> None:
        """Let a layer whose outputs are on this scale give them standardised."""
        _assign(linear, 1.0 / self.deviation, 0.0, -self.mean)

    @contextmanager
    def out_of(self, *layers: nn.Linear) -> Iterator[None]:
        """Have layers give standardised outputs as long as the context lasts."""
        for linear in layers:
            self.take_out_of(linear)
        try:
            yield
        finally:
            for linear in layers:
                self.put_into(linear)


STANDARD = Scale()
"""That of outputs which are standardised, or are not numbers to be predicted."""


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() and other.std() else 0.0


def _assign(linear: nn.Linear, factor: float, after: float, before: float) -> None:
    """Turn outputs y into (y + before) * factor + after, computed in double precision."""
    linear.weight.copy_(linear.weight.double() * factor)
    linear.bias.copy_((linear.bias.double() + before) * factor + after)


def last_linear(model: nn.Module) -> nn.Linear:
    """The last linear layer of a classifier, which gives its outputs."""
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return found[-1]
