"""The kind of task `classification`: each text, or each text pair, belongs to one of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import DataError
from nas.tasks.base import Metric, TaskKind, TaskLabels, TaskSettings, is_custom, problem_of
from nas.tasks.custom_metric import custom_metric
from nas.tasks.labels import Head, LabelColumn, alike_note, check_known, class_names, classes_of, numbering

if TYPE_CHECKING:
    import torch


_OF_ONE_CLASS = ("f1", "precision", "recall", "roc_auc")


@dataclass(frozen=True)
class ClassMetric(Metric):
    """A metric of the predicted classes or, for `roc_auc`, of how texts are ranked by the probability of a class.

    Labels are class numbers, (texts,). `f1_micro` equals `accuracy`, since each text has one class.
    """

    positive: int | None = None
    """The number of the class for which f1, precision, recall or roc_auc is computed. None means class 1 if there are
    two classes, otherwise the mean over all classes."""

    @property
    def is_share(self) -> bool:
        return self.name in ("accuracy", "f1_micro")

    @property
    def needs_float32(self) -> bool:
        """Whether the metric is `roc_auc`: it ranks texts whose outputs may differ by less than bf16 can represent."""
        return self.name == "roc_auc"

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        if self.is_share:
            return float(self.is_correct(logits, labels).mean())
        outputs = logits.shape[1]
        positive = 1 if self.positive is None and outputs == 2 else self.positive
        if self.name == "roc_auc":
            classes = range(outputs) if positive is None else [positive]
            found = [area for number in classes if (area := _area_under_curve(logits, labels, number)) is not None]
            return float(np.mean(found)) if found else 0.5
        from sklearn import metrics  # the import takes a second, which workers save if the metric is accuracy

        predictions = self.answers(logits, labels)
        if self.name == "matthews_correlation":
            return float(metrics.matthews_corrcoef(labels, predictions))
        of: Any = getattr(metrics, f"{self.name.removesuffix('_macro')}_score")
        if positive is None or self.name == "f1_macro":
            return float(of(labels, predictions, average="macro", zero_division=0.0))
        return float(of(labels == positive, predictions == positive, zero_division=0.0))

    def answers(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        found: np.ndarray = logits.argmax(axis=1)
        return found

    def is_correct(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        same: np.ndarray = self.answers(logits, labels) == labels
        return same

    def confidence(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        found: np.ndarray = exponentials[np.arange(len(labels)), labels] / exponentials.sum(axis=1)
        return found

    def constant_answer(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        found = np.zeros((len(labels), outputs), dtype=np.float32)
        found[:, np.bincount(labels).argmax()] = 1.0
        return found

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        shift = np.where(rng.random(len(labels)) < share, 0, rng.integers(1, outputs, len(labels)))
        found: np.ndarray = np.eye(outputs)[(labels + shift) % outputs]
        return found


def _area_under_curve(logits: np.ndarray, labels: np.ndarray, number: int) -> float | None:
    """Return the area under the ROC curve of one class: the probability that its texts rank above other texts.

    Ties count half. None if no text, or every text, belongs to the class.
    """
    from scipy.stats import rankdata

    others = np.delete(logits.astype(np.float64), number, axis=1)
    ranks = rankdata(logits[:, number] - np.logaddexp.reduce(others, axis=1))
    is_custom = labels == number
    own, rest = int(is_custom.sum()), int((~is_custom).sum())
    if not own or not rest:
        return None
    return float((ranks[is_custom].sum() - own * (own + 1) / 2) / (own * rest))


class Classification(TaskKind):
    """The kind of task in which each text belongs to one of several classes."""

    name = "classification"
    metrics = ("accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "roc_auc", "matthews_correlation")
    takes_custom_metrics = True
    single_class_metrics = _OF_ONE_CLASS
    examples = (
        {"label": ["good", "bad", "good", "so so", "bad", "so so"]},
        {"label": [0, 1, 1, 0, 1, 0]},
        {"label": [1.0, 2.0, 2.0, 1.0]},
    )
    problem_type = "single_label_classification"

    def metric(self, asked: TaskSettings, names: Sequence[str] = ()) -> Metric:
        """Return the metric. f1, precision, recall and roc_auc are computed for the class `positive` if it is given.

        Otherwise they are computed for class 1 if there are two classes, as in GLUE, or as the mean over all classes.
        """
        name, positive = asked.metric, asked.positive
        if is_custom(name):
            return custom_metric(name, ClassMetric(self.metrics[0]))
        if name not in _OF_ONE_CLASS or (not names and positive is None):
            return ClassMetric(name, " ".join(reversed(name.split("_"))) if name.startswith("f1_") else "")
        if not names:
            return ClassMetric(name, f"{name} of {positive!r}")
        if positive is None:
            two = len(names) == 2
            return ClassMetric(name, f"{name} of {names[1]!r}", 1) if two else ClassMetric(name, f"macro {name}")
        same = [number for number, name in enumerate(names) if name == positive]
        same = same or [number for number, name in enumerate(names) if name.casefold() == positive.casefold()]
        if len(same) != 1:
            raise DataError(f"task.positive: must be one of the classes {', '.join(names)}, but got {positive!r}")
        return ClassMetric(name, f"{name} of {names[same[0]]!r}", same[0])

    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        (trained,), (tested,) = train, test
        classes = {"train": classes_of(trained), "test": classes_of(tested)}
        found = numbering(class_names(trained, classes["train"]), head)
        notes = [found.note] if found.note else []
        notes += alike_note(trained.source, found.names)
        check_known(found, trained, tested, enumerate(classes["test"]))
        values: dict[str, list[Any]] = {
            name: [found.numbers[label] for label in labels] for name, labels in classes.items()
        }
        return TaskLabels(values, found.names, tuple(notes))

    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        return problem_of(problem_type, outputs) == self.problem_type and outputs != 1

    def divergence(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        groups: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the Kullback-Leibler divergence between the class probabilities of teacher and student."""
        from torch.nn import functional

        student, teacher = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
