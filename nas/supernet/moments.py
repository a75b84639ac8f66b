"""Sums over all tokens that pass a point of a network: what regressions and leading directions are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Moments:
    """Number, sum and products of what passed one point."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.products: Any = 0.0

    def add(self, value: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Add (batch, sequence, features), without what the mask leaves out, or (batch, features)."""
        tokens = (value[mask] if value.dim() == 3 else value).double()
        self.count += len(tokens)
        self.total = self.total + tokens.sum(dim=0)
        self.products = self.products + tokens.T @ tokens

    @property
    def second(self) -> torch.Tensor:
        """The second moment, (features, features)."""
        return self.products / self.count

    def second_around(self, shift: torch.Tensor) -> torch.Tensor:
        """The second moment of the values with `shift` (features,) added."""
        mean = self.total / self.count
        cross = torch.outer(mean, shift.double())
        return self.second + cross + cross.T + torch.outer(shift.double(), shift.double())

    def regression(self, size: int, ridge: float, constant: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (missing, size) and constant (missing,) of the features from `size` on, given those before.

        `ridge`, a share of their mean variance, keeps a fit to few values from following noise. Without `constant` that
        is 0.
        """
        mean = self.total / self.count * constant
        covariance = self.second - torch.outer(mean, mean)
        own = covariance[:size, :size]
        penalty = ridge * own.diagonal().mean() * torch.eye(size, dtype=own.dtype)
        weight = torch.linalg.solve(own + penalty, covariance[:size, size:]).T
        return weight, mean[size:] - weight @ mean[:size]


@contextmanager
def gathered(
    model: nn.Module, read: Mapping[str, Moments], written: Mapping[str, Moments]
) -> Iterator[Callable[[torch.Tensor], None]]:
    """While it is open, what modules read and write in forward passes is added to their moments, by name.

    It gives a function that says which tokens of the next pass are text, a mask (batch, sequence).
    """
    masks: list[torch.Tensor] = []
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _m, inputs, at=at: at.add(inputs[0], masks[-1]))
        for name, at in read.items()
    ]
    hooks += [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, output, at=at: at.add(output, masks[-1]))
        for name, at in written.items()
    ]
    try:
        yield masks.append
    finally:
        for hook in hooks:
            hook.remove()
