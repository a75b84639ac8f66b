"""The `classification` task kind: each text, or each text pair, belongs to one of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import DataError
from nas.tasks.custom_metric import CustomMetric, custom_metric
from nas.tasks.kind import TaskKind, TaskLabels, TaskSettings, problem_of
from nas.tasks.labels import LabelColumn, class_names, classes_of, first_names, plain_number
from nas.tasks.metric import EVALUATED_SET, Metric, is_custom
from nas.tasks.numbering import Head, check_known, notes_on, numbering

if TYPE_CHECKING:
    from torch import Tensor


_SINGLE_CLASS_METRICS = ("f1", "precision", "recall", "roc_auc")


@dataclass(frozen=True)
class ClassMetric(Metric):
    """A metric for tasks in which each text belongs to one class.

    Most of these metrics compare predicted classes with the labels. `roc_auc` instead depends on how the probability of
    a class orders the texts. Labels are class numbers with the shape (texts,). `f1_micro` equals `accuracy`, because
    each text has exactly one class.
    """

    positive: int | None = None
    """The number of the class for which f1, precision, recall or roc_auc is computed. None means class 1 if there are
    two classes, or the mean over all classes if there are more."""

    @property
    def is_share(self) -> bool:
        return self.name in ("accuracy", "f1_micro")

    @property
    def needs_float32(self) -> bool:
        """Whether the metric is `roc_auc`.

        This metric orders texts by outputs that may differ by less than bf16 can represent.
        """
        return self.name == "roc_auc"

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        if self.is_share:
            return float(self.is_correct(logits, labels).mean())
        outputs = logits.shape[1]
        positive = 1 if self.positive is None and outputs == 2 else self.positive
        if self.name == "roc_auc":
            classes = range(outputs) if positive is None else [positive]
            areas = [area for number in classes if (area := _area_under_curve(logits, labels, number)) is not None]
            return float(np.mean(areas)) if areas else 0.5
        from sklearn import metrics  # the import takes a second, which workers save if the metric is accuracy

        predictions = self.answers(logits, labels)
        if self.name == "matthews_correlation":
            return float(metrics.matthews_corrcoef(labels, predictions))
        score_function: Any = getattr(metrics, f"{self.name.removesuffix('_macro')}_score")
        if positive is None or self.name == "f1_macro":
            return float(score_function(labels, predictions, average="macro", zero_division=0.0))
        return float(score_function(labels == positive, predictions == positive, zero_division=0.0))

    def check_size(self, labels: np.ndarray, set_name: str = EVALUATED_SET) -> None:
        """Raise `DataError` if a set is too small, or if its classes leave the metric undefined for every network."""
        super().check_size(labels, set_name)
        needs_others = self.name in ("roc_auc", "matthews_correlation")
        has_class = self.positive is None or self.name not in _SINGLE_CLASS_METRICS or (labels == self.positive).any()
        if has_class and not (needs_others and len(np.unique(labels)) == 1):
            return
        rule, found = (
            ("texts of different classes", f"all of its {len(labels)} texts are of the same class")
            if has_class
            else ("texts of this class", f"none of its {len(labels)} texts is of this class")
        )
        raise DataError(
            f"{set_name} needs {rule} for {self.label}, but {found}; add such texts, or choose a different metric"
        )

    def answers(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        classes: np.ndarray = logits.argmax(axis=1)
        return classes

    def is_correct(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        same: np.ndarray = self.answers(logits, labels) == labels
        return same

    def confidence(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probabilities: np.ndarray = exponentials[np.arange(len(labels)), labels] / exponentials.sum(axis=1)
        return probabilities

    def constant_answer(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        logits = np.zeros((len(labels), outputs), dtype=np.float32)
        logits[:, np.bincount(labels).argmax()] = 1.0
        return logits

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        shift = np.where(rng.random(len(labels)) < share, 0, rng.integers(1, outputs, len(labels)))
        logits: np.ndarray = np.eye(outputs)[(labels + shift) % outputs]
        return logits


@dataclass(frozen=True)
class CustomClassMetric(CustomMetric, ClassMetric):
    """A metric that a user-defined function computes from the predicted classes."""


def _area_under_curve(logits: np.ndarray, labels: np.ndarray, number: int) -> float | None:
    """Return the area under the ROC curve of the class with the number `number`.

    This is the probability that a text of this class ranks above a text of any other class. A tie counts as half.
    Return None if no text or every text belongs to the class.
    """
    from scipy.stats import rankdata

    other_logits = np.delete(logits.astype(np.float64), number, axis=1)
    ranks = rankdata(logits[:, number] - np.logaddexp.reduce(other_logits, axis=1))
    is_own = labels == number
    own_count, other_count = int(is_own.sum()), int((~is_own).sum())
    if not own_count or not other_count:
        return None
    return float((ranks[is_own].sum() - own_count * (own_count + 1) / 2) / (own_count * other_count))


class Classification(TaskKind):
    """The kind of task in which each text belongs to one of several classes."""

    name = "classification"
    metrics = ("accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "roc_auc", "matthews_correlation")
    takes_custom_metrics = True
    single_class_metrics = _SINGLE_CLASS_METRICS
    examples = (
        {"label": ["good", "bad", "good", "so so", "bad", "so so"]},
        {"label": [0, 1, 1, 0, 1, 0]},
        {"label": [1.0, 2.0, 2.0, 1.0]},
    )
    problem_type = "single_label_classification"

    def metric(self, settings: TaskSettings, names: Sequence[str] = ()) -> Metric:
        """Return the metric that the settings name.

        f1, precision, recall and roc_auc are computed for the class `positive` if the settings name one. Without this
        setting, they are computed for class 1 if there are two classes, as in GLUE. If there are more classes, the mean
        over all classes is computed.
        """
        name, positive = settings.metric, settings.positive
        if is_custom(name):
            return custom_metric(name, CustomClassMetric)
        if name not in _SINGLE_CLASS_METRICS or (not names and positive is None):
            return ClassMetric(name, " ".join(reversed(name.split("_"))) if name.startswith("f1_") else "")
        if not names:
            return ClassMetric(name, f"{name} of {positive!r}")
        if positive is None:
            has_two_classes = len(names) == 2
            return (
                ClassMetric(name, f"{name} of {names[1]!r}", 1)
                if has_two_classes
                else ClassMetric(name, f"macro {name}")
            )
        positive = plain_number(positive.strip())
        matches = [number for number, name in enumerate(names) if name == positive]
        matches = matches or [number for number, name in enumerate(names) if name.casefold() == positive.casefold()]
        if len(matches) != 1:
            raise DataError(
                f"task.positive: must name one of the classes, but got {positive!r}; use one of {first_names(names)}"
            )
        return ClassMetric(name, f"{name} of {names[matches[0]]!r}", matches[0])

    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        (train_column,), (test_column,) = train, test
        classes = {"train": classes_of(train_column), "test": classes_of(test_column)}
        class_numbering = numbering(class_names(train_column, classes["train"]), head)
        notes = notes_on(class_numbering, train_column.source, head)
        check_known(class_numbering, train_column, test_column, enumerate(classes["test"]))
        values: dict[str, list[Any]] = {
            name: [class_numbering.numbers[label] for label in labels] for name, labels in classes.items()
        }
        return TaskLabels(values, class_numbering.names, tuple(notes))

    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        return problem_of(problem_type, outputs) == self.problem_type and outputs != 1

    def divergence(
        self, student: Tensor, teacher: Tensor, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the Kullback-Leibler divergence between the class probabilities of teacher and student."""
        from torch.nn import functional

        student, teacher = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
