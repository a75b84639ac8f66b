"""The choice between bf16 and float32 for training and evaluation on this machine.

bf16 saves time only if the processor multiplies bf16 matrices in hardware and the network is wide enough.
"""

from __future__ import annotations

import torch

_LEAST_HIDDEN_SIZE = 256
"""The smallest hidden size at which faster products in bf16 outweigh the cost of the casts."""


def native_bf16(processor: str) -> bool:
    """Whether this machine's `processor` (`cpu` or `cuda`) multiplies bf16 matrices in hardware."""
    if processor == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in supported)


def uses_bf16(hidden_size: int, processor: str) -> bool:
    """Whether networks of this hidden size should be computed in bf16 on this machine's `processor`."""
    return native_bf16(processor) and hidden_size >= _LEAST_HIDDEN_SIZE


def precision_name(bf16: bool) -> str:
    """Return the number format, `bf16` or `float32`, as it is recorded with results."""
    return "bf16" if bf16 else "float32"


def training_processor() -> str:
    """Return the processor, `cuda` or `cpu`, that trains networks and evaluates candidates in this process."""
    return "cuda" if torch.cuda.is_available() else "cpu"
