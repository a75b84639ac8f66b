"""Compression choices: what can be done to one block of a network."""

from __future__ import annotations

import re
from functools import cache

from nas.compression.base import BLOCKS, Block, Compression, Format, MatrixCompression
from nas.compression.int4 import Int4
from nas.compression.int8 import Int8
from nas.compression.low_rank import LowRank
from nas.compression.none import NoCompression
from nas.compression.share import Share
from nas.compression.skip import Skip
from nas.compression.sparse import Sparse

__all__ = [
    "BLOCKS",
    "Block",
    "Compression",
    "MatrixCompression",
    "REGISTRY",
    "compression",
    "formats_of",
    "matrix_compression",
]

REGISTRY: dict[str, type[Compression]] = {
    choice.name: choice for choice in (NoCompression, Int8, Int4, LowRank, Sparse, Share, Skip)
}
_SPEC = re.compile(r"([a-z0-9_]+)(?:\(([^()]*)\))?(?:\+(.+))?")


def formats_of(kind: type[Compression]) -> list[str]:
    """The formats that a choice's matrices can be stored in, by name."""
    return [name for name, other in REGISTRY.items() if issubclass(other, Format) and kind.takes(other)]


@cache
def compression(spec: str) -> Compression:
    """The choice written so. Raises `ValueError` with rule, value and remedy if there is none."""
    parts = _SPEC.fullmatch(spec)
    if not parts or parts[1] not in REGISTRY:
        raise ValueError(f"{spec!r} is no compression choice; use {', '.join(REGISTRY)}")
    kind, stored = REGISTRY[parts[1]], compression(parts[3]) if parts[3] else None
    if stored is not None and not (isinstance(stored, Format) and kind.takes(type(stored))):
        able = " or ".join(formats_of(kind))
        rule = f"can be stored as {able}" if able else "cannot be combined with a format"
        raise ValueError(f"{kind.name} {rule}, but got {stored.spec!r}; {'take one of them' if able else 'drop one'}")
    found = kind.read(parts[2], stored)
    if found.spec != spec:
        raise ValueError(f"each choice is written in one way, but got {spec!r}; write {found.spec!r}")
    return found


def matrix_compression(spec: str) -> MatrixCompression:
    """The choice written so, of a block with weights of its own. Raises `ValueError` for any other."""
    found = compression(spec)
    if not isinstance(found, MatrixCompression):
        raise ValueError(f"{spec!r} has no weights of its own; use another choice")
    return found
