"""The compression methods for the blocks of a network: the embedding, the attention and the feed-forward blocks.

Each method has its own module and an entry in `REGISTRY`. `compression` parses strings such as `low_rank(64)+int8`, by
which search spaces and architectures refer to methods. The method of a block defines how the model, the supernet and
the export compute and store the block.
"""

from __future__ import annotations

import re
from functools import cache

from nas.compression.base import BLOCKS, INPUT_RANGE, Block, Compression, Format, MatrixCompression, text_extremes
from nas.compression.int4 import Int4
from nas.compression.int8 import Int8
from nas.compression.low_rank import LowRank
from nas.compression.none import NoCompression
from nas.compression.share import Share
from nas.compression.skip import Skip
from nas.compression.sparse import Sparse
from nas.compression.static_int8 import StaticInt8

__all__ = [
    "BLOCKS",
    "Block",
    "Compression",
    "EIGHT_BIT",
    "INPUT_RANGE",
    "MatrixCompression",
    "REGISTRY",
    "compression",
    "eight_bit_method",
    "formats_of",
    "matrix_compression",
    "text_extremes",
]

REGISTRY: dict[str, type[Compression]] = {
    choice.name: choice for choice in (NoCompression, Int8, StaticInt8, Int4, LowRank, Sparse, Share, Skip)
}
_SPEC = re.compile(r"([a-z0-9_]+)(?:\(([^()]*)\))?(?:\+(.+))?")


EIGHT_BIT = ("int8", "static_int8")
"""The methods with which every block of a network can be stored and computed in 8 bits, in order of preference."""


def eight_bit_method(runtime: str, processor: str = "cpu") -> str | None:
    """Return the first method in `EIGHT_BIT` that a runtime can execute on a processor, or None if there is none."""
    return next((name for name in EIGHT_BIT if compression(name).runs_on(runtime, processor)), None)


def formats_of(kind: type[Compression]) -> list[str]:
    """Return the names of the number formats in which a compression method can store its matrices."""
    return [name for name, other in REGISTRY.items() if issubclass(other, Format) and kind.takes(other)]


@cache
def compression(spec: str) -> Compression:
    """Parse a compression method from a string such as `low_rank(64)+int8`.

    Raises `ValueError` if `spec` is not valid. The message contains a remedy.
    """
    parts = _SPEC.fullmatch(spec)
    if not parts or parts[1] not in REGISTRY:
        raise ValueError(f"{spec!r} is not a compression method; use one of {', '.join(REGISTRY)}")
    kind, stored = REGISTRY[parts[1]], compression(parts[3]) if parts[3] else None
    if stored is not None and not (isinstance(stored, Format) and kind.takes(type(stored))):
        formats = ", ".join(formats_of(kind))
        rule = f"can be stored only in one of the formats {formats}" if formats else "cannot be combined with a format"
        raise ValueError(
            f"{kind.name} {rule}, but got {stored.spec!r}; "
            f"{'use one of these' if formats else 'use only one of the two'}"
        )
    method = kind.read(parts[2], stored)
    if method.spec != spec:
        raise ValueError(
            f"a compression method must be written in its standard form, but got {spec!r}; write {method.spec!r}"
        )
    return method


def matrix_compression(spec: str) -> MatrixCompression:
    """Parse a compression method for blocks that have their own weights.

    Raises `ValueError` for `skip` and `share`, because a block with one of these methods has no weights of its own.
    """
    method = compression(spec)
    if not isinstance(method, MatrixCompression):
        raise ValueError(
            f"this block must have weights of its own, but {spec!r} gives it none; use another compression method"
        )
    return method
