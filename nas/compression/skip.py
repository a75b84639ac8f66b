"""`skip`: the block is left out of a layer that stays, its residual connection and norm with it."""

from __future__ import annotations

from nas.compression.base import Compression


class Skip(Compression):
    """No block at all."""

    name = "skip"
    examples = ("skip",)
    blocks = frozenset({"attention", "feed_forward"})
    weights = "none"
    runtimes = frozenset({"torch", "onnxruntime", "openvino"})
