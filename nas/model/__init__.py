"""The network model: configuration, modules, sizes and ONNX export of sub-networks, and the conversion of teachers.

`CompactBert` is a sub-network with its head. `CompactBertConfig` holds all settings of a sub-network, but no weights.
The supernet, the latency profiles, the evaluation and the export all build their networks from these two classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.model.configuration import CompactBertConfig

if TYPE_CHECKING:
    from nas.model.modeling import CompactBert, CompactBertForSequenceClassification

__all__ = ["CompactBert", "CompactBertConfig", "CompactBertForSequenceClassification"]


def __getattr__(name: str) -> Any:
    """Import a class from `nas.model.modeling` on first use, because that module imports PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module 'nas.model' has no attribute {name!r}")
    from nas.model import modeling

    return getattr(modeling, name)
