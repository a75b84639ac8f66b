"""The network model: configuration, definition, sizes and ONNX form of sub-networks, and the conversion of teachers.

`CompactBert` is a sub-network with its head, and `CompactBertConfig` describes one. The supernet, the latency
profiles, the evaluation and the export all build their networks from these two classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.model.configuration import CompactBertConfig

if TYPE_CHECKING:
    from nas.model.modeling import CompactBert, CompactBertForSequenceClassification

__all__ = ["CompactBert", "CompactBertConfig", "CompactBertForSequenceClassification"]


def __getattr__(name: str) -> Any:
    """Return a class of `nas.model.modeling`, which imports PyTorch and is imported only when it is first needed."""
    if name not in __all__:
        raise AttributeError(f"module 'nas.model' has no attribute {name!r}")
    from nas.model import modeling

    return getattr(modeling, name)
