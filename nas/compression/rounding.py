"""Quantisation with straight-through gradients: the backward pass treats the rounding as the identity function.

The torch implementations of the compression methods use these functions. The modelling file of an export contains
copies of them.
"""

from __future__ import annotations

import torch

SMALLEST_SCALE = 1e-12
"""The smallest quantisation scale. It is used for a group of values that are all zero."""


def straight_through(exact: torch.Tensor, quantised: torch.Tensor) -> torch.Tensor:
    """Return the values of `quantised`, with the gradient of `exact` (Bengio et al., arXiv:1308.3432).

    Under `torch.jit.trace`, the result does not have this gradient. The tracer traces a network with and without
    gradients, and fails if the two graphs differ.
    """
    is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if is_traced or not (torch.is_grad_enabled() and exact.requires_grad):
        return quantised
    return exact + (quantised - exact).detach()


def asymmetric(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Round values to 256 evenly spaced levels between `low` and `high`. Zero is always one of the levels.

    Values below `low` or above `high` become the nearest level. `low` and `high` are float32 tensors that can be
    broadcast to the shape of `x`. The computation uses 32-bit floating point for every data type of `x`.
    """
    scale, zero_point = asymmetric_steps(low, high)
    quantised = (x.detach().float() / scale).round_().add_(zero_point).clamp_(0, 255)
    return straight_through(x, quantised.sub_(zero_point).mul_(scale).to(x.dtype))


def asymmetric_steps(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scale (the distance between adjacent levels) and the zero point that `asymmetric` uses."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp(min=SMALLEST_SCALE)
    return scale, (-low / scale).round().clamp(0, 255)


def symmetric(weight: torch.Tensor, levels: int) -> torch.Tensor:
    """Round values to multiples of a scale, from -`levels` to `levels` times the scale.

    All values along the last axis share one scale. The computation uses 32-bit floating point for every data type of
    `weight`, because half precision cannot represent the scale of a row of zeros, such as the embedding of the padding
    token.
    """
    exact = weight.detach().float()
    scale = exact.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE * levels) / levels
    return straight_through(weight, (exact / scale).round().mul(scale).to(weight.dtype))
