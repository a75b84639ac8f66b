"""The functions and the evaluator that Olive loads from a file by their names; `olive_tool.py` refers to them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from olive.evaluator.metric_result import MetricResult
from olive.evaluator.olive_evaluator import OnnxEvaluator
from olive.evaluator.registry import Registry
from tracing import Traceable


def load(model_path: str) -> Traceable:
    """Return the teacher that a file of `olive_tool.input_model` describes."""
    about = json.loads(Path(model_path).read_text())
    return Traceable(Path(about["folder"]), about["names"], about["shape"]).eval()


def inputs(handler: Any) -> Any:
    """Return inputs for tracing."""
    return handler.load_model().example


@Registry.register("JudgedByStudy")
class JudgedByStudy(OnnxEvaluator):
    """An evaluator whose accuracy is the study's metric on rows of the search set.

    Metrics of the type `custom` would be simpler, but Olive 0.13.0 cannot write them to JSON.
    """

    def __init__(self, judge: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.judge = Path(judge)

    def _evaluate_accuracy(self, model: Any, metric: Any, *_: Any, **__: Any) -> MetricResult:
        value = pickle.loads(self.judge.read_bytes())(Path(model.model_path))
        (sub_type,) = metric.sub_types
        about = {"value": value, "priority": sub_type.priority, "higher_is_better": sub_type.higher_is_better}
        return MetricResult.model_validate({sub_type.name: about})
