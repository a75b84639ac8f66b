"""Quantisation with straight-through gradients: values are rounded, but have the gradients of the exact values.

The compression methods use these functions in torch, and exports copy the functions into their modelling file.
"""

from __future__ import annotations

import torch

SMALLEST_SCALE = 1e-12
"""The smallest quantisation scale. A group of values that are all zero has this scale."""


def straight_through(exact: torch.Tensor, quantised: torch.Tensor) -> torch.Tensor:
    """Return the quantised values with the gradient of the exact ones (Bengio et al., arXiv:1308.3432)."""
    if not (torch.is_grad_enabled() and exact.requires_grad):
        return quantised
    return exact + (quantised - exact).detach()


def symmetric(weight: torch.Tensor, levels: int) -> torch.Tensor:
    """Return values rounded to `levels` levels on each side of zero. All values along the last axis share one scale.

    The computation always uses 32-bit floating point, whatever the format of the values, because half precision cannot
    hold the scale of a group of zeros, such as the row of the padding token.
    """
    exact = weight.detach().float()
    scale = exact.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE * levels) / levels
    return straight_through(weight, (exact / scale).round().mul(scale).to(weight.dtype))
