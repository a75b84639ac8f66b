"""Standardisation of a regression's outputs during training.

Learning rates and loss weights suit outputs with mean 0 and standard deviation 1. During training, the last linear
layer is therefore changed so that its outputs are standardised. After training, their original mean and standard
deviation are restored, so that every exported model returns numbers in the units of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

_LEAST_CORRELATION = 0.3
"""If outputs correlate less than this with the targets, they are treated as noise (see `Scale.to_remove`)."""


@dataclass(frozen=True)
class Scale:
    """The mean and the standard deviation of a regression's outputs or targets."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Scale:
        """Return the mean and standard deviation of `values`. If all values are equal, the deviation is set to 1."""
        numbers = np.asarray(values, dtype=np.float64)
        return cls(float(numbers.mean()), float(numbers.std()) if np.ptp(numbers) else 1.0)

    @classmethod
    def to_remove(cls, outputs: np.ndarray, targets: Sequence[float]) -> Scale:
        """Return the mean and deviation to remove from a model's outputs before training on standardised targets.

        The result is the mean and deviation of `outputs`, regardless of the targets on which the model was trained
        before. If the outputs vary little and hardly correlate with `targets`, as is usual for a newly initialised
        layer, only their mean is removed, so that noise is not magnified.
        """
        scale = cls.of(outputs)
        if scale.deviation < 1.0 and abs(_correlation(outputs, np.asarray(targets))) < _LEAST_CORRELATION:
            return cls(scale.mean)
        return scale

    def standardised(self, values: Sequence[float]) -> list[float]:
        """Return `values` minus the mean of this `Scale`, divided by its standard deviation."""
        numbers: list[float] = ((np.asarray(values, dtype=np.float64) - self.mean) / self.deviation).tolist()
        return numbers

    @torch.no_grad()
    def restore_in(self, linear: nn.Linear) -> None:
        """Change a layer in place so that its outputs get the mean and standard deviation of this `Scale`.

        Before the change, the outputs of the layer must be standardised.
        """
        _rescale_outputs(linear, self.deviation, self.mean, 0.0)

    @torch.no_grad()
    def remove_from(self, linear: nn.Linear) -> None:
        """Change a layer in place so that its outputs are standardised.

        Before the change, the outputs of the layer must have the mean and standard deviation of this `Scale`.
        """
        _rescale_outputs(linear, 1.0 / self.deviation, 0.0, -self.mean)

    @contextmanager
    def removed_from(self, *layers: nn.Linear | None) -> Iterator[None]:
        """Standardise the outputs of these layers while the `with` block runs, and restore them afterwards.

        Layers that are None are ignored. None stands for a network without a last layer, which does not predict
        numbers.
        """
        linears = [linear for linear in layers if linear is not None]
        for linear in linears:
            self.remove_from(linear)
        try:
            yield
        finally:
            for linear in linears:
                self.restore_in(linear)

    @contextmanager
    def restored_in(self, linear: nn.Linear | None) -> Iterator[None]:
        """Give a layer's outputs the mean and standard deviation of this `Scale` while the `with` block runs.

        Before the block, the outputs must be standardised. Afterwards, the layer has exactly the same parameters as
        before. Nothing is changed if the layer is None or if this `Scale` is `STANDARD`.
        """
        if linear is None or self == STANDARD:
            yield
            return
        standardised = [parameter.detach().clone() for parameter in linear.parameters()]
        self.restore_in(linear)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(linear.parameters(), standardised, strict=True):
                    parameter.copy_(value)


STANDARD = Scale()
"""The scale of outputs that are already standardised, or that are not predictions of a regression."""


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() and other.std() else 0.0


def _rescale_outputs(linear: nn.Linear, factor: float, shift_after: float, shift_before: float) -> None:
    """Change a layer in place so that each output y becomes (y + shift_before) * factor + shift_after.

    The new weights are computed in double precision.
    """
    linear.weight.copy_(linear.weight.double() * factor)
    linear.bias.copy_((linear.bias.double() + shift_before) * factor + shift_after)


def last_linear(model: nn.Module) -> nn.Linear:
    """Return the last linear layer of a model, which computes the model's outputs."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linears[-1]
