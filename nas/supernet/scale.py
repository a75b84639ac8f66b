"""The scale of a regression's outputs, which are standardised during training.

Learning rates and loss weights suit outputs of mean 0 and standard deviation 1. Training therefore removes the scale
of the data from the last linear layer, and restores it at the end. Outside of training, a model thus returns numbers
on the scale of the data, whatever its export format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

_LEAST_CORRELATION = 0.3
"""Outputs that correlate less than this with the targets are treated as uninformative; see `Scale.to_remove`."""


@dataclass(frozen=True)
class Scale:
    """The mean and the standard deviation of outputs."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Scale:
        """Return the scale of `values`. If all values are equal, the standard deviation is set to 1."""
        numbers = np.asarray(values, dtype=np.float64)
        return cls(float(numbers.mean()), float(numbers.std()) or 1.0)

    @classmethod
    def to_remove(cls, outputs: np.ndarray, targets: Sequence[float]) -> Scale:
        """Return the scale to remove from a model with these outputs before it is trained on standardised targets.

        This is the scale of the model's outputs, whatever targets it was trained on before. If the outputs vary little
        and hardly correlate with the targets, as is usual for a newly initialised layer, only their mean is removed, so
        that they are not magnified.
        """
        scale = cls.of(outputs)
        if scale.deviation < 1.0 and abs(_correlation(outputs, np.asarray(targets))) < _LEAST_CORRELATION:
            return cls(scale.mean)
        return scale

    def standardised(self, values: Sequence[float]) -> list[float]:
        """Return `values`, which are on this scale, after standardising them to mean 0 and standard deviation 1."""
        numbers: list[float] = ((np.asarray(values, dtype=np.float64) - self.mean) / self.deviation).tolist()
        return numbers

    @torch.no_grad()
    def restore_in(self, linear: nn.Linear) -> None:
        """Change a layer in place so that its outputs, which are standardised, are on this scale instead."""
        _rescale_outputs(linear, self.deviation, self.mean, 0.0)

    @torch.no_grad()
    def remove_from(self, linear: nn.Linear) -> None:
        """Change a layer in place so that its outputs, which are on this scale, are standardised instead."""
        _rescale_outputs(linear, 1.0 / self.deviation, 0.0, -self.mean)

    @contextmanager
    def removed_from(self, *layers: nn.Linear | None) -> Iterator[None]:
        """Standardise the outputs of these layers while the `with` block runs, and then restore their scale.

        None stands for a network without a last layer. Such a network does not predict numbers, so it has no scale.
        """
        linears = [linear for linear in layers if linear is not None]
        for linear in linears:
            self.remove_from(linear)
        try:
            yield
        finally:
            for linear in linears:
                self.restore_in(linear)


STANDARD = Scale()
"""The scale of outputs that are already standardised, or that are not predictions of a regression."""


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() and other.std() else 0.0


def _rescale_outputs(linear: nn.Linear, factor: float, shift_after: float, shift_before: float) -> None:
    """Change a layer so that its outputs y become (y + shift_before) * factor + shift_after, in double precision."""
    linear.weight.copy_(linear.weight.double() * factor)
    linear.bias.copy_((linear.bias.double() + shift_before) * factor + shift_after)


def last_linear(model: nn.Module) -> nn.Linear:
    """Return the last linear layer of a classifier, which computes its outputs."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linears[-1]
