"""`skip`: the block is left out of its layer, together with its residual connection and norm; the layer stays."""

from __future__ import annotations

from nas.compression.base import Compression


class Skip(Compression):
    """A block that is left out of its layer."""

    name = "skip"
    examples = ("skip",)
    blocks = frozenset({"attention", "feed_forward"})
    weights = "none"
    runtimes = frozenset({"torch", "onnxruntime", "openvino"})
