"""`skip`: the block, its residual connection and its norm are left out of the layer. The layer's other block stays."""

from __future__ import annotations

from nas.compression.base import Compression


class Skip(Compression):
    """A block that is left out of its layer."""

    name = "skip"
    examples = ("skip",)
    blocks = frozenset({"attention", "feed_forward"})
    weights = "none"
    runtimes = frozenset({"torch", "onnxruntime", "openvino"})
