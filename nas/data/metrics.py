"""A task's metric: its name in words, and its value from logits and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.errors import DataError
from nas.study import Task

_CORRELATIONS = ("spearman", "pearson")


@dataclass(frozen=True)
class Metric:
    """A metric, and which class it is about if it is about one."""

    name: str
    """As in the study's `task.metric`."""
    positive: int | None = None
    """The number of the class whose f1 is meant; None for the mean over all classes, and for other metrics."""
    label: str = ""
    """How tables and messages name it: `accuracy`, `f1 of 'hate'`, `macro f1`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)

    @classmethod
    def of(cls, task: Task, names: Sequence[str] = ()) -> Metric:
        """The metric of a task with these classes; without classes, as far as the study alone says it.

        f1 is that of the class `task.positive`, else of class 1 if there are two classes (as in GLUE), else the mean
        over all classes. Raises `DataError` if no class has that name.
        """
        if task.metric != "f1" or (not names and task.positive is None):
            return cls(task.metric)
        if not names:
            return cls(task.metric, label=f"f1 of {task.positive!r}")
        if task.positive is None:
            return cls("f1", 1, f"f1 of {names[1]!r}") if len(names) == 2 else cls("f1", label="macro f1")
        same = [number for number, name in enumerate(names) if name == task.positive]
        same = same or [number for number, name in enumerate(names) if name.casefold() == task.positive.casefold()]
        if len(same) != 1:
            raise DataError(f"task.positive: must be one of the classes {', '.join(names)}, but got {task.positive!r}")
        return cls("f1", same[0], f"f1 of {names[same[0]]!r}")

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Its value for logits (examples, num_labels) and labels (examples,); see `score`."""
        return score(self.name, logits, labels, self.positive)


def check_size(metric: str, texts: int, what: str = "What is judged (search.examples, search.least_tokens)") -> None:
    """Raise `DataError` if there are too few texts for a metric; `what` names them in the message."""
    if metric in _CORRELATIONS and texts < 2:
        raise DataError(f"{what} needs at least 2 texts for {metric}, but has {texts}; give more")


def score(metric: str, logits: np.ndarray, labels: np.ndarray, positive: int | None = None) -> float:
    """A metric of logits (examples, num_labels) and labels (examples,); higher is better.

    `positive` is the class that f1 is of; without it f1 is that of class 1 for two classes, else the mean over classes.
    Raises `DataError` for a correlation of fewer than two examples.
    """
    if metric in _CORRELATIONS:
        from scipy.stats import pearsonr, spearmanr

        check_size(metric, len(labels))
        both = (logits[:, 0], labels)
        value = float(spearmanr(*both).statistic if metric == "spearman" else pearsonr(*both).statistic)
        return value if np.isfinite(value) else 0.0  # a constant prediction correlates with nothing
    predictions = logits.argmax(axis=1)
    if metric == "accuracy":
        return float((predictions == labels).mean())
    from sklearn.metrics import f1_score, matthews_corrcoef  # a second, which workers need not wait for accuracy

    if metric == "f1":
        if positive is None and logits.shape[1] == 2:
            positive = 1
        if positive is None:
            return float(f1_score(labels, predictions, average="macro", zero_division=0.0))
        return float(f1_score(labels == positive, predictions == positive, zero_division=0.0))
    return float(matthews_corrcoef(labels, predictions))
