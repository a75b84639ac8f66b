"""One class for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import DataError
from nas.tasks.base import Metric, TaskKind, TaskLabels, TaskSettings, problem_of
from nas.tasks.labels import Head, LabelColumn, alike, check_known, class_names, classes_of, numbering

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ClassMetric(Metric):
    """`accuracy`, `f1` or `matthews_correlation` of the likeliest class. Labels are class numbers, (texts,)."""

    positive: int | None = None
    """The number of the class whose f1 is meant; None for that of class 1 where there are two, else for the mean."""

    @property
    def is_share(self) -> bool:
        return self.name == "accuracy"

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        predictions = self.answers(logits)
        if self.name == "accuracy":
            return float((predictions == labels).mean())
        from sklearn.metrics import f1_score, matthews_corrcoef  # a second, which workers need not wait for accuracy

        if self.name == "matthews_correlation":
            return float(matthews_corrcoef(labels, predictions))
        positive = 1 if self.positive is None and logits.shape[1] == 2 else self.positive
        if positive is None:
            return float(f1_score(labels, predictions, average="macro", zero_division=0.0))
        return float(f1_score(labels == positive, predictions == positive, zero_division=0.0))

    def answers(self, logits: np.ndarray) -> np.ndarray:
        found: np.ndarray = logits.argmax(axis=1)
        return found

    def right(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        same: np.ndarray = self.answers(logits) == labels
        return same

    def constant(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        found = np.zeros((len(labels), outputs), dtype=np.float32)
        found[:, np.bincount(labels).argmax()] = 1.0
        return found

    def imagined(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        shift = np.where(rng.random(len(labels)) < share, 0, rng.integers(1, outputs, len(labels)))
        found: np.ndarray = np.eye(outputs)[(labels + shift) % outputs]
        return found


class Classification(TaskKind):
    """One of several classes."""

    name = "classification"
    metrics = ("accuracy", "f1", "matthews_correlation")
    examples = (
        {"label": ["good", "bad", "good", "so so", "bad", "so so"]},
        {"label": [0, 1, 1, 0, 1, 0]},
        {"label": [1.0, 2.0, 2.0, 1.0]},
    )
    problem_type = "single_label_classification"

    def metric(self, asked: TaskSettings, names: Sequence[str] = ()) -> ClassMetric:
        """f1 is that of the class `positive`, else of class 1 if there are two (as in GLUE), else the mean over all."""
        positive = asked.positive
        if asked.metric != "f1" or (not names and positive is None):
            return ClassMetric(asked.metric)
        if not names:
            return ClassMetric("f1", f"f1 of {positive!r}")
        if positive is None:
            return ClassMetric("f1", f"f1 of {names[1]!r}", 1) if len(names) == 2 else ClassMetric("f1", "macro f1")
        same = [number for number, name in enumerate(names) if name == positive]
        same = same or [number for number, name in enumerate(names) if name.casefold() == positive.casefold()]
        if len(same) != 1:
            raise DataError(f"task.positive: must be one of the classes {', '.join(names)}, but got {positive!r}")
        return ClassMetric("f1", f"f1 of {names[same[0]]!r}", same[0])

    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        (trained,), (tested,) = train, test
        classes = {"train": classes_of(trained), "test": classes_of(tested)}
        found = numbering(class_names(trained, classes["train"]), head)
        notes = [found.note] if found.note else []
        if same := alike(found.names):
            notes.append(
                f"Warning: {trained.source}: the classes {' and '.join(map(repr, same))} differ by case alone; are "
                "they the same?"
            )
        check_known(found, trained, tested, classes["test"])
        values: dict[str, list[Any]] = {
            name: [found.numbers[label] for label in labels] for name, labels in classes.items()
        }
        return TaskLabels(values, found.names, tuple(notes))

    def takes(self, problem_type: str | None, outputs: int | None) -> bool:
        return problem_of(problem_type, outputs) == self.problem_type and outputs != 1

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence between the probabilities of the classes."""
        from torch.nn import functional

        student, teacher = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
