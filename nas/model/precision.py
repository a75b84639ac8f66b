"""Where bf16 pays: the processor multiplies it natively, and the network is wide enough."""

from __future__ import annotations

import torch

_LEAST_WIDTH = 256
"""The casts of narrower layers cost more than their products gain."""


def native_bf16(processor: str) -> bool:
    """Whether `cpu` or `cuda` of this machine multiplies bf16 matrices in hardware."""
    if processor == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in supported)


def uses_bf16(hidden_size: int, processor: str) -> bool:
    """Whether networks of a hidden size are to be computed in bf16 on a processor of this machine."""
    return native_bf16(processor) and hidden_size >= _LEAST_WIDTH


def precision_name(bf16: bool) -> str:
    """How the number format of a computation is called."""
    return "bf16" if bf16 else "float32"


def training_processor() -> str:
    """The processor of this machine that trains, evaluates candidates in this process, and judges exports."""
    return "cuda" if torch.cuda.is_available() else "cpu"
