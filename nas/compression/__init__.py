"""The compression methods: the ways in which one block of a network can be compressed.

`REGISTRY` lists the methods, each of which has its own module. `compression` parses the string by which search spaces
and architectures refer to a method, such as `low_rank(64)+int8`. The model, the supernet and the export then compute
and store the block as the method defines.
"""

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
    """Return the names of the formats in which a compression method can store its matrices."""
    return [name for name, other in REGISTRY.items() if issubclass(other, Format) and kind.takes(other)]


@cache
def compression(spec: str) -> Compression:
    """Return the compression method that is written as `spec`, such as `low_rank(64)+int8`.

    Raises `ValueError`, with a remedy, if `spec` is not valid.
    """
    parts = _SPEC.fullmatch(spec)
    if not parts or parts[1] not in REGISTRY:
        raise ValueError(f"{spec!r} is not a compression method; use one of {', '.join(REGISTRY)}")
    kind, stored = REGISTRY[parts[1]], compression(parts[3]) if parts[3] else None
    if stored is not None and not (isinstance(stored, Format) and kind.takes(type(stored))):
        formats = " or ".join(formats_of(kind))
        rule = f"can be stored as {formats}" if formats else "cannot be combined with a format"
        raise ValueError(
            f"{kind.name} {rule}, but got {stored.spec!r}; "
            f"{'use one of these formats' if formats else 'use only one of the two'}"
        )
    method = kind.read(parts[2], stored)
    if method.spec != spec:
        raise ValueError(
            f"a compression method must be written in its standard form, but got {spec!r}; write {method.spec!r}"
        )
    return method


def matrix_compression(spec: str) -> MatrixCompression:
    """Return the method that is written as `spec`.

    Raises `ValueError` if a block with this method has no weights of its own, as is the case for `skip` and `share`.
    """
    method = compression(spec)
    if not isinstance(method, MatrixCompression):
        raise ValueError(f"{spec!r} gives the block no weights of its own; use another compression method")
    return method
