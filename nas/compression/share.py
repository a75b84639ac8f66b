"""`share`: the block uses the weights of a lower block of its kind, the nearest one with weights of its own (ALBERT).

Only the norm belongs to the block itself. The block has the size and the compression method of the block that it
borrows from. It also takes as long to compute as that block, so the method saves only file size.
"""

from __future__ import annotations

from nas.compression.base import Compression


class Share(Compression):
    """A block that borrows the weights of a layer below (Lan et al., arXiv:1909.11942)."""

    name = "share"
    examples = ("share",)
    blocks = frozenset({"attention", "feed_forward"})
    weights = "below"
    runtimes = frozenset({"torch", "onnxruntime", "openvino"})
