"""The `multi_label` task kind: each text, or each text pair, has any number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import DataError, shown
from nas.tasks.custom_metric import CustomMetric, custom_metric
from nas.tasks.kind import TaskKind, TaskLabels, TaskSettings, any_of
from nas.tasks.labels import (
    LabelColumn,
    file_by_file,
    first_names,
    log_odds,
    multi_hot_width,
    names_in_lists,
    refuse_missing,
)
from nas.tasks.metric import EVALUATED_SET, Metric, is_custom
from nas.tasks.numbering import Head, Numbering, notes_on, number_lists, numbering

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 0.5
"""The smallest probability at which a label applies, unless the study sets a different threshold."""
_CERTAIN_LOGIT = 5.0
"""The absolute value of the logits in simulated and constant answers."""
_YES_OR_NO = {"1": 1.0, "1.0": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0}


@dataclass(frozen=True)
class LabelMetric(Metric):
    """The metric `f1_micro`, `f1_macro` or `average_precision`.

    `f1_macro` and `average_precision` are means over labels. Labels have the shape (texts, labels), and each value is
    0.0 or 1.0.
    """

    thresholds: tuple[float, ...] | None = (THRESHOLD,)
    """The smallest probability at which a label applies: one value for all labels, or one value per label. If it is
    None, the best thresholds are chosen for each set that is scored."""

    @property
    def needs_float32(self) -> bool:
        """Whether the metric orders texts or chooses thresholds. bf16 is not precise enough for either."""
        return self.name == "average_precision" or self.thresholds is None

    @property
    def is_calibrated(self) -> bool:
        return self.thresholds is not None

    def check_size(self, labels: np.ndarray, set_name: str = EVALUATED_SET) -> None:
        """Raise `DataError` if a set is too small, or if no text has a label, so that every network scores 0."""
        super().check_size(labels, set_name)
        if not is_custom(self.name) and not labels.any():
            raise DataError(
                f"{set_name} needs texts with labels for {self.label}, but none of its {len(labels)} texts has a "
                "label; give texts with labels, such as a split whose labels are public"
            )

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        if self.name == "average_precision":  # a label that no text has would score 0 for every network
            from sklearn.metrics import average_precision_score

            occurring = labels.any(axis=0)
            if not occurring.any():
                return 0.0
            return float(average_precision_score(labels[:, occurring], logits[:, occurring], average="macro"))
        label_counts = counts(self.calibrated(logits, labels).answers(logits, labels), labels)
        return float(f1(label_counts.sum(axis=1) if self.name == "f1_micro" else label_counts).mean())

    def calibrated(self, logits: np.ndarray, labels: np.ndarray) -> LabelMetric:
        """Return the metric with thresholds. If it has none, they are chosen to maximise F1 on `logits` and `labels`.

        `f1_macro` and `average_precision` get one threshold per label. Every other metric gets a single threshold.
        """
        if self.thresholds is not None:
            return self
        label_probabilities, is_actual = probabilities(logits), labels.astype(bool)
        if self.name not in ("f1_macro", "average_precision"):
            return replace(self, thresholds=(best_threshold(label_probabilities.ravel(), is_actual.ravel()),))
        thresholds = (
            best_threshold(label_probabilities[:, number], is_actual[:, number]) for number in range(labels.shape[1])
        )
        return replace(self, thresholds=tuple(thresholds))

    def answers(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return whether each label applies to each text, with the shape (texts, labels)."""
        applies: np.ndarray = probabilities(logits) >= np.asarray(self.thresholds or (THRESHOLD,))
        return applies

    def predictions(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return self.answers(logits, labels).astype(labels.dtype)

    def config_entries(self, outputs: int) -> dict[str, Any]:
        thresholds = self.thresholds or (THRESHOLD,)
        return {"thresholds": list(thresholds) * (outputs if len(thresholds) == 1 else 1)}

    def by_label(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
        label_counts = counts(self.answers(logits, labels), labels)
        correct, predicted, actual = label_counts
        columns = {
            "precision": quotient(correct, predicted),
            "recall": quotient(correct, actual),
            "f1": f1(label_counts),
            "rows": actual,
        }
        rows = zip(*columns.values(), strict=True)
        return {
            name: dict(zip(columns, map(float, values), strict=True)) for name, values in zip(names, rows, strict=True)
        }

    def constant_answer(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        """Return logits that give every text only the most frequent label."""
        logits = np.full((len(labels), outputs), -_CERTAIN_LOGIT, dtype=np.float32)
        logits[:, labels.sum(axis=0).argmax()] = _CERTAIN_LOGIT
        return logits

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return simulated logits in which some labels of the texts are replaced by wrong labels.

        About a `share` of the labels remains correct.
        """
        rows, label_numbers = np.nonzero(labels)
        shift = np.where(rng.random(len(rows)) < share, 0, rng.integers(1, outputs, len(rows)))
        logits = np.full((len(labels), outputs), -_CERTAIN_LOGIT)
        logits[rows, (label_numbers + shift) % outputs] = _CERTAIN_LOGIT
        return logits


@dataclass(frozen=True)
class CustomLabelMetric(CustomMetric, LabelMetric):
    """A metric that a user-defined function computes from the predicted sets of labels."""


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probability of each label, in the same shape as the logits."""
    chances: np.ndarray = np.exp(-np.logaddexp(0.0, -logits))
    return chances


def counts(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the numbers of true positives, predicted positives and actual positives of each label.

    The result has the shape (3, labels). Both arguments have the shape (texts, labels).
    """
    actual = labels.astype(bool)
    return np.stack([(answers & actual).sum(axis=0), answers.sum(axis=0), actual.sum(axis=0)])


def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part / whole`. A division by zero yields 0, as it does by default in scikit-learn."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def f1(label_counts: np.ndarray) -> np.ndarray:
    """Return F1, computed from the result of `counts`.

    The result equals scikit-learn's F1 but takes a fifth of the time to compute. This matters because a bootstrap
    computes F1 often.
    """
    correct, predicted, actual = label_counts
    return quotient(2 * correct, predicted + actual)


def best_threshold(answer_probabilities: np.ndarray, is_correct: np.ndarray) -> float:
    """Return the probability threshold with the best F1. `is_correct` says which answers are correct.

    Both arguments have the shape (answers,). The threshold lies half-way between two adjacent probabilities. If no
    answer is correct, return `THRESHOLD`.
    """
    if not is_correct.any():
        return THRESHOLD
    order = np.argsort(-answer_probabilities, kind="stable")
    sorted_probabilities, correct_counts = answer_probabilities[order].astype(np.float64), np.cumsum(is_correct[order])
    scores = 2.0 * correct_counts / (np.arange(1, len(order) + 1) + correct_counts[-1])
    # A threshold must lie where the probability changes, since equal probabilities cannot be separated.
    last_of_equal = np.flatnonzero(np.append(sorted_probabilities[1:] < sorted_probabilities[:-1], True))
    best_index = int(last_of_equal[scores[last_of_equal].argmax()])
    next_lower = sorted_probabilities[best_index + 1] if best_index + 1 < len(sorted_probabilities) else 0.0
    return float((sorted_probabilities[best_index] + next_lower) / 2.0)


class MultiLabel(TaskKind):
    """The kind of task in which each text has any number of labels."""

    name = "multi_label"
    metrics = ("f1_micro", "f1_macro", "average_precision")
    takes_custom_metrics = True
    problem_type = "multi_label_classification"
    meaning = "lists"
    several_columns = True
    has_thresholds = True
    label_word = "labels"
    pipeline_arguments = ", top_k=None, truncation=True"
    why_no_exits = "a text may have several labels, so there is no single label to be confident in"
    examples = (
        {"labels": [["joy", "love"], ["anger"], [], ["fear", "anger"], ["joy"], ["love"], ["fear"]]},
        {"labels": [[0, 2], [1], [], [2, 1]]},
        {"joy": [1, 0, 0, 1], "anger": [0, 1, 0, 0], "fear": [1, 1, 0, 0]},
        {"toxic": ["true", "false", "true"], "insult": ["0", "1", "1"]},
    )

    def metric(self, settings: TaskSettings, names: Sequence[str] = ()) -> Metric:
        thresholds = None if isinstance(settings.threshold, str) else (settings.threshold or THRESHOLD,)
        if is_custom(settings.metric):
            return custom_metric(settings.metric, CustomLabelMetric, thresholds=thresholds)
        label = "average precision" if settings.metric == "average_precision" else settings.metric
        return LabelMetric(settings.metric, label, thresholds)

    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        if len(train) > 1:
            class_numbering = numbering([column.name for column in train], head)
            names_by_set = {"train": _read_columns(train), "test": _read_columns(test)}
        elif (width := multi_hot_width(train[0].values)) and train[0].classes is None:
            class_numbering = numbering(list(map(str, range(width))), head)
            names_by_set = {"train": _read_vectors(train[0], width), "test": _read_vectors(test[0], width)}
        else:
            (train_column,), (test_column,) = train, test
            names_by_set = {"train": _read_lists(train_column), "test": _read_lists(test_column)}
            class_numbering = number_lists(train_column, test_column, names_by_set, head, self.name)
        _check_rows_differ(train[0], names_by_set["train"])
        notes = notes_on(class_numbering, train[0].source, head)
        values = {name: [_multi_hot(row, class_numbering) for row in rows] for name, rows in names_by_set.items()}
        return TaskLabels(values, class_numbering.names, tuple(notes))

    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        """Return whether a teacher suits this kind of task.

        A problem type of None is accepted, because many multi-label teachers are saved without it.
        """
        return problem_type in (None, self.problem_type) and outputs != 1

    def first_bias(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        return log_odds(labels)

    def counts(self, labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
        sums = np.asarray(labels).sum(axis=0)
        return {name: int(count) for name, count in zip(names, sums, strict=True)}

    def divergence(
        self, student: Tensor, teacher: Tensor, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the Kullback-Leibler divergence of the probabilities that labels apply.

        The divergence is summed over labels and averaged over texts.
        """
        from torch.nn.functional import logsigmoid

        def term(sign: float) -> Tensor:
            student_log, teacher_log = logsigmoid(sign * student.float()), logsigmoid(sign * teacher.float())
            return teacher_log.exp() * (teacher_log - student_log)

        return (term(1.0) + term(-1.0)).sum(dim=-1).mean()

    @property
    def usage(self) -> str:
        return (
            "A text may have several labels or none. A label applies if its probability reaches its threshold; the "
            "thresholds are in config.json under `thresholds`, in the order of `id2label`. The pipeline returns the "
            "probabilities of all labels; `infer.py` returns only the labels that apply."
        )

    def summary(self, texts: str, labels: Sequence[str]) -> str:
        return f"Labels {texts} with any of {any_of(labels)}"


def _check_rows_differ(column: LabelColumn, rows: Sequence[Sequence[str]]) -> None:
    """Raise `DataError` if all rows of the training data have the same labels."""
    if len(rows) > 1 and len(set(map(frozenset, rows))) == 1:
        noun = "label" if len(set(rows[0])) == 1 else "labels"
        labels = f"the {noun} {first_names(list(dict.fromkeys(rows[0])))}" if rows[0] else "no label"
        raise DataError(
            f"{column.place}: all {len(rows)} rows have {labels}, so there is nothing to learn; give rows with "
            "different labels"
        )


def _read_lists(column: LabelColumn) -> list[list[str]]:
    remedy = "write lists, name one column per label in task.label, or set kind = 'classification'"
    return names_in_lists(column, "multi_label needs a list of labels in every row", remedy)


@file_by_file
def _read_vectors(column: LabelColumn, width: int) -> list[list[str]]:
    """For each row, return the positions of the ones in a vector of zeros and ones, as strings.

    Raises `DataError` if a row is not a vector of this width.
    """
    for number, row in enumerate(column.values):
        if multi_hot_width([row]) != width:
            raise DataError(
                f"{column.place}: the training rows hold vectors of {width} zeros and ones, but row {number} (counted "
                f"from 0) holds {shown(row)}; write one 0 or 1 per label in all rows"
            )
    return [[str(position) for position, value in enumerate(row) if value] for row in column.values]


def _read_columns(columns: Sequence[LabelColumn]) -> list[list[str]]:
    """For each row, return the names of the columns that hold 1 or true.

    Raises the same errors as `_read_applies`.
    """
    applies = zip(*map(_read_applies, columns), strict=True)
    return [[column.name for column, value in zip(columns, row, strict=True) if value] for row in applies]


@file_by_file
def _read_applies(column: LabelColumn) -> list[float | None]:
    """Return 1.0 or 0.0 for each row of a column that holds 0 or 1, or false or true.

    Raises `DataError` if the column holds any other value.
    """
    refuse_missing(column, column.values)
    values = [_YES_OR_NO.get(str(value).strip().casefold()) for value in column.values]
    if None in values:
        bad_row = values.index(None)
        raise DataError(
            f"{column.place}: must hold 0 or 1 (or false or true) in every row, because the column stands for "
            f"one label, but row {bad_row} (counted from 0) holds {shown(column.values[bad_row])}; write 0 or 1 there"
        )
    return values


def _multi_hot(names: Sequence[str], class_numbering: Numbering) -> list[float]:
    """Return a list with 1.0 at the numbers of the labels in `names`, and 0.0 elsewhere."""
    values = [0.0] * len(class_numbering.names)
    for name in names:
        values[class_numbering.numbers[name]] = 1.0
    return values
