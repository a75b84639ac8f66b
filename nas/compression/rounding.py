"""Rounding in training: what is computed is rounded, what is learnt is not."""

from __future__ import annotations

import torch

SMALLEST_SCALE = 1e-12
"""Of a group of zeros."""


def straight_through(exact: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The rounded value with the gradient of the exact one (Bengio et al., arXiv:1308.3432)."""
    if not (torch.is_grad_enabled() and exact.requires_grad):
        return rounded
    return exact + (rounded - exact).detach()


def symmetric(weight: torch.Tensor, levels: int) -> torch.Tensor:
    """Return values rounded to `levels` steps to either side, one scale for each group along the last dimension.

    It is computed in 32-bit floating point whatever the format of the values: half precision cannot hold the scale of
    a group of zeros, such as the row of the padding token.
    """
    exact = weight.detach().float()
    scale = exact.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE * levels) / levels
    return straight_through(weight, (exact / scale).round().mul(scale).to(weight.dtype))
