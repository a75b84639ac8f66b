"""The model of a sub-network: configuration, definition, sizes, ONNX form, and the way from and to a teacher."""

from __future__ import annotations

from nas.model.configuration import CompactBertConfig
from nas.model.modeling import CompactBertForSequenceClassification

__all__ = ["CompactBertConfig", "CompactBertForSequenceClassification"]
