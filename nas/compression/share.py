"""`share`: the block uses the weights of the nearest lower block of its kind that has its own weights (ALBERT).

The block has its own norm, but the size and the compression method of the lower block. Computing the block takes as
long as computing the lower block, so the method saves file size, but no time.
"""

from __future__ import annotations

from nas.compression.base import Compression


class Share(Compression):
    """The block uses the weights of a block in a lower layer (Lan et al., arXiv:1909.11942)."""

    name = "share"
    examples = ("share",)
    blocks = frozenset({"attention", "feed_forward"})
    weights = "below"
