"""`share`: a block uses the weights of the nearest lower block of the same kind that has weights (ALBERT).

The norm is not shared, but the size and the compression method are those of the lower block. Computing the block takes
as long as computing the lower block, so the method saves file size, but no time.
"""

from __future__ import annotations

from nas.compression.base import Compression


class Share(Compression):
    """The block uses the weights of a block in a lower layer (Lan et al., arXiv:1909.11942)."""

    name = "share"
    examples = ("share",)
    blocks = frozenset({"attention", "feed_forward"})
    weights = "below"
