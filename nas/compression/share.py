"""`share`: the block uses the weights of the same block in the nearest layer below that has some (ALBERT).

Only its norm stays its own. It has the size and the choice of the block that it borrows from, computes as much and
takes as long; what it saves is size.
"""

from __future__ import annotations

from nas.compression.base import Compression


class Share(Compression):
    """Weights of a layer below (Lan et al., arXiv:1909.11942)."""

    name = "share"
    examples = ("share",)
    blocks = frozenset({"attention", "feed_forward"})
    weights = "below"
    runtimes = frozenset({"torch", "onnxruntime", "openvino"})
