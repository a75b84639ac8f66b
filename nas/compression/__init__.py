"""Compression choices: what can be done to one block of a network."""

from __future__ import annotations

from nas.compression.base import BLOCKS, Block, Compression
from nas.compression.int8 import Int8
from nas.compression.none import NoCompression

__all__ = ["BLOCKS", "Block", "Compression", "REGISTRY", "compression"]

REGISTRY: dict[str, Compression] = {choice.name: choice for choice in (NoCompression(), Int8())}


def compression(name: str) -> Compression:
    """The choice of that name. Raises `KeyError` for a name that no space could have let through."""
    return REGISTRY[name]
