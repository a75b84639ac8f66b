"""The `regression` task kind: each text, or each text pair, has a number on a scale as its label.

Candidates are evaluated by the correlation between their outputs and the labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import DataError
from nas.tasks.custom_metric import CustomMetric, custom_metric
from nas.tasks.kind import TaskKind, TaskLabels, TaskSettings, problem_of
from nas.tasks.labels import LabelColumn, targets_of
from nas.tasks.metric import EVALUATED_SET, Metric, is_custom
from nas.tasks.numbering import Head, check_one_output

if TYPE_CHECKING:
    from torch import Tensor


def correlation(name: str, first: np.ndarray, second: np.ndarray) -> float:
    """Return the Spearman or Pearson correlation of two arrays of the shape (rows,), or 0 if it is undefined."""
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return 0.0  # scipy would warn about constant values
    value = float(spearmanr(first, second).statistic if name == "spearman" else pearsonr(first, second).statistic)
    return value if np.isfinite(value) else 0.0


@dataclass(frozen=True)
class Correlation(Metric):
    """The metric `spearman` or `pearson`: the correlation between outputs and labels.

    Labels are numbers on the scale of the data, with the shape (texts,).
    """

    needs_float32 = True
    least_size = 2

    def check_size(self, labels: np.ndarray, set_name: str = EVALUATED_SET) -> None:
        """Raise `DataError` if a set is too small, or if all targets are equal, so that no correlation is defined."""
        super().check_size(labels, set_name)
        if not is_custom(self.name) and np.ptp(labels) == 0.0:
            raise DataError(
                f"{set_name} needs texts with different targets for {self.label}, but the targets of its {len(labels)} "
                f"texts are all {labels[0]:g}; give more texts, or choose a different metric"
            )

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        super().check_size(labels)  # a bootstrap sample may have equal targets
        return correlation(self.name, logits[:, 0], labels)

    def predictions(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scores: np.ndarray = logits[:, 0]
        return scores

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return simulated outputs whose correlation with the labels is about `share`."""
        noise = labels.std() * math.sqrt(share**-2 - 1.0)
        scores: np.ndarray = (labels + noise * rng.standard_normal(len(labels)))[:, None]
        return scores

    def assumption(self, share: float) -> str:
        return f"a correlation of {share:g}"


@dataclass(frozen=True)
class CustomNumberMetric(CustomMetric, Correlation):
    """A metric that a user-defined function computes from the predicted numbers."""


class Regression(TaskKind):
    """The kind of task in which each text has a number on a scale."""

    name = "regression"
    metrics = ("spearman", "pearson")
    takes_custom_metrics = True
    examples = ({"label": [0.5, 4.0, 1.25, 3.0]}, {"label": ["1", "2.5", "-3e2", ".5"]})
    problem_type = "regression"
    has_one_output = True
    predicts_numbers = True
    meaning = "scale"
    why_no_exits = "the output of a regression does not say how confident the network is"

    def metric(self, settings: TaskSettings, names: Sequence[str] = ()) -> Metric:
        if is_custom(settings.metric):
            return custom_metric(settings.metric, CustomNumberMetric)
        return Correlation(settings.metric)

    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        (train_column,), (test_column,) = train, test
        check_one_output(head, "but the task is a regression to one number", "a teacher fine-tuned for this task")
        values: dict[str, list[Any]] = {"train": targets_of(train_column), "test": targets_of(test_column)}
        return TaskLabels(values, ())

    def output_names(self, names: Sequence[str]) -> dict[int, str]:
        return {0: "score"}

    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        return problem_of(problem_type, outputs) == self.problem_type and outputs == 1

    def divergence(
        self, student: Tensor, teacher: Tensor, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the mean squared difference between the outputs of a network and of its teacher.

        The outputs are standardised during training.
        """
        from torch.nn import functional

        return functional.mse_loss(student.float(), teacher.float())

    def summary(self, texts: str, labels: Sequence[str]) -> str:
        return f"Scores {texts}"
