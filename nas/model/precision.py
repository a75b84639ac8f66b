"""Where bf16 pays: the processor multiplies it natively, and the network is wide enough."""

from __future__ import annotations

import torch

_LEAST_WIDTH = 256
"""The casts of narrower layers cost more than their products gain."""


def native_bf16() -> bool:
    """Whether this processor (or GPU) multiplies bf16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in supported)


def uses_bf16(hidden_size: int) -> bool:
    """Whether networks of a hidden size are to be computed in bf16 here."""
    return native_bf16() and hidden_size >= _LEAST_WIDTH
