"""First and second moments of the activations at one point of a network.

`SupernetWeights.fit` computes initial weights from these moments: the projections for smaller hidden sizes are
regressions, and the low-rank matrices are leading directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


class Moments:
    """The count, the sum and the sum of outer products of the feature vectors at one point of a network."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.products: Any = 0.0

    def add(self, value: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Add the feature vectors in `value`, which has the shape (batch, features) or (batch, sequence, features).

        If `value` has a sequence dimension, only the vectors for which `mask` (batch, sequence) is true are added.
        """
        tokens = (value[mask] if value.dim() == 3 else value).double()
        self.count += len(tokens)
        self.total = self.total + tokens.sum(dim=0)
        self.products = self.products + tokens.T @ tokens

    @property
    def second(self) -> torch.Tensor:
        """The second moment about zero, of shape (features, features)."""
        return self.products / self.count

    def second_around(self, shift: torch.Tensor) -> torch.Tensor:
        """Return the second moment about zero after `shift` (features,) is added to every feature vector."""
        mean = self.total / self.count
        cross = torch.outer(mean, shift.double())
        return self.second + cross + cross.T + torch.outer(shift.double(), shift.double())

    def regression(self, size: int, ridge: float, constant: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the linear regression that predicts all other features from the first `size` features.

        The result is a weight of shape (other features, size) and an intercept of shape (other features,). If
        `constant` is false, the intercept is 0. `ridge` is the ridge penalty relative to the mean variance of the first
        `size` features. The penalty reduces overfitting if there are few tokens.
        """
        mean = self.total / self.count * constant
        covariance = self.second - torch.outer(mean, mean)
        predictor_covariance = covariance[:size, :size]
        penalty = ridge * predictor_covariance.diagonal().mean() * torch.eye(size, dtype=predictor_covariance.dtype)
        weight = torch.linalg.solve(predictor_covariance + penalty, covariance[:size, size:]).T
        return weight, mean[size:] - weight @ mean[:size]


@contextmanager
def recorded_moments(
    model: nn.Module, read: Mapping[str, Moments], written: Mapping[str, Moments]
) -> Iterator[Callable[[torch.Tensor], None]]:
    """While the `with` block runs, add the inputs of modules to `read` and the outputs of modules to `written`.

    Both arguments hold moments, keyed by module name. The yielded function must be called before each forward pass,
    with the mask (batch, sequence) of the real tokens.
    """
    masks: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for name, moments in read.items():
            hooks.enter_context(
                model.get_submodule(name).register_forward_pre_hook(
                    lambda _m, inputs, moments=moments: moments.add(inputs[0], masks[-1])
                )
            )
        for name, moments in written.items():
            hooks.enter_context(
                model.get_submodule(name).register_forward_hook(
                    lambda _m, _i, output, moments=moments: moments.add(output, masks[-1])
                )
            )
        yield masks.append
