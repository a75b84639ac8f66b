"""`skip`: the block, its residual connection and its norm are left out of the layer. The other block remains."""

from __future__ import annotations

from nas.compression.base import Compression


class Skip(Compression):
    """The block is left out of its layer."""

    name = "skip"
    examples = ("skip",)
    blocks = frozenset({"attention", "feed_forward"})
    weights = "none"
