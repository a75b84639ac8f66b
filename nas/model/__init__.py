"""The model of a sub-network: configuration, definition, sizes, ONNX form, and the way from and to a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.model.configuration import CompactBertConfig

if TYPE_CHECKING:
    from nas.model.modeling import CompactBert, CompactBertForSequenceClassification

__all__ = ["CompactBert", "CompactBertConfig", "CompactBertForSequenceClassification"]


def __getattr__(name: str) -> Any:
    """The definition when it is first asked for: the configuration is registered while transformers still loads."""
    if name not in __all__:
        raise AttributeError(f"module 'nas.model' has no attribute {name!r}")
    from nas.model import modeling

    return getattr(modeling, name)
