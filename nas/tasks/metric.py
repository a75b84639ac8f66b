"""The interface of a metric, which scores the outputs of a network, and the labels that metrics compare them with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nas.errors import DataError

GROUP, REFERENCE = "group", "judged"
"""Columns that a tokenised split may have in addition to `labels`. `GROUP` holds the number of each row's group. In a
search or test set, a negative number means that the row belongs to every group. For example, the passages of a corpus
belong to every query. `REFERENCE` holds the labels for the metric if they differ from the labels for training."""
IGNORED = -100
"""The label of a token that has no tag and is not evaluated. Transformers uses the same value."""
EVALUATED_SET = "The part of the search set that search.examples and search.least_tokens select"
"""The name, in messages, of the part of the search set on which candidates are evaluated."""


def is_custom(metric: str) -> bool:
    """Whether the name of a metric refers to a user-defined function; see `nas.tasks.custom_metric`."""
    return ":" in metric


def in_groups(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return an array of records with the fields `label` and `group`, one record per row.

    Metrics that score groups of rows require labels in this format.
    """
    records = np.empty(len(labels), dtype=[("label", labels.dtype, labels.shape[1:]), (GROUP, np.int64)])
    records["label"], records[GROUP] = labels, groups
    return records


@dataclass(frozen=True)
class Metric(ABC):
    """A metric, which scores the outputs of a network.

    Logits have the shape (texts, outputs), and labels have the shape (texts, ...). A metric that scores groups of rows
    expects the records of `in_groups` as labels. If each token has a label, logits have the shape (texts, tokens,
    outputs) and labels have the shape (texts, tokens). Tokens with the label `IGNORED` are then not evaluated.
    Instances are immutable, because they are sent to the processes that evaluate candidates.
    """

    name: str
    """The value of `task.metric` that selects this metric."""
    label: str = ""
    """The name in tables and messages. By default, it is the same as `name`."""
    note: ClassVar[str] = ""
    """An explanation of the score for the report and the model card. Empty if the name of the metric suffices."""
    size_word: ClassVar[str] = "texts"
    """The plural noun for the items that `size` counts."""
    judges_groups: ClassVar[bool] = False
    """Whether the score is a mean over groups of texts. For example, the passages of a query form a group."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def is_share(self) -> bool:
        """Whether the score is the share of texts with correct answers."""
        return False

    @property
    def needs_float32(self) -> bool:
        """Whether the score depends on differences between outputs that are too small for bf16."""
        return False

    @property
    def least_size(self) -> int:
        """The smallest number of items, as returned by `size`, for which the metric is defined."""
        return 1

    def size(self, labels: np.ndarray) -> int:
        """Return the number of items that are scored: texts, pairs, or groups of texts."""
        return len(labels)

    def describe_size(self, labels: np.ndarray) -> str:
        """Return the number of texts as a phrase, such as "1,000 texts".

        If the metric scores groups, the phrase also gives the number of groups.
        """
        texts = f"{len(labels):,} texts"
        return f"{self.size(labels):,} {self.size_word} ({texts})" if self.judges_groups else texts

    @abstractmethod
    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Return the score of the logits, computed with the labels. A higher score is better."""

    def bootstrap_scores(self, logits: np.ndarray, labels: np.ndarray, draws: Iterable[np.ndarray]) -> list[float]:
        """Return the score of each bootstrap sample.

        Each item of `draws` holds the row numbers of one sample. A row may occur several times in a sample.
        """
        return [self.score(logits[rows], labels[rows]) for rows in draws]

    def answers(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """Return the discrete answers, such as class numbers, that follow from the logits, one row per text.

        Return None if the outputs are numbers. `labels` is used only to find the tokens that are evaluated.
        """
        return None

    def predictions(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the predictions that a user-defined metric compares with the labels, one row per text.

        This method is called only for kinds with `TaskKind.takes_custom_metrics`.
        """
        answers = self.answers(logits, labels)
        assert answers is not None
        return answers

    def is_correct(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return whether the answer for each text is correct, with the shape (texts,).

        Only metrics with `is_share` support this method.
        """
        raise NotImplementedError(f"{self.name} is not a share of right answers")

    def group_scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the score of each group, with the shape (groups,). Only metrics with `judges_groups` support this."""
        raise NotImplementedError(f"{self.name} does not score groups")

    def confidence(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the probability that a network assigns to the correct answer of each text, with the shape (texts,).

        Only metrics with `is_share` support this method. To find out which of two networks is better, the mean of these
        probabilities needs fewer texts than the share of correct answers.
        """
        return self.is_correct(logits, labels).astype(np.float64)

    def constant_answer(self, labels: np.ndarray, outputs: int) -> np.ndarray | None:
        """Return the logits of a baseline that gives the same answer to all texts.

        Return None if every such baseline scores 0.
        """
        return None

    @abstractmethod
    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return the logits of a simulated network, to estimate the metric's standard error without a real network.

        `share` is the approximate share of correct answers or, for some metrics, the approximate correlation.
        """

    def simulated_labels(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the labels to pass to `simulated`.

        These are `labels`, or random labels if `labels` are a teacher's outputs.
        """
        return labels

    def assumption(self, share: float) -> str:
        """Return what `simulated` assumes about the network, worded as a phrase that follows "assuming"."""
        return f"that {share:.0%} of the answers are right"

    @property
    def is_calibrated(self) -> bool:
        """Whether all settings of the metric, such as thresholds, have values.

        If not, call `calibrated` with the outputs for the search set.
        """
        return True

    def calibrated(self, logits: np.ndarray, labels: np.ndarray) -> Metric:
        """Return a copy in which settings without a value, such as thresholds, are set to maximise the score.

        The score is computed on `logits` and `labels`.
        """
        return self

    def config_entries(self, outputs: int) -> dict[str, Any]:
        """Return the entries of `config.json` with the settings of the metric, such as thresholds.

        These settings define how outputs become answers.
        """
        return {}

    def label_counts(self, labels: np.ndarray) -> dict[str, int]:
        """Return additional counts about the labels of a set, keyed by a description. Empty if there are none."""
        return {}

    def rows_to_compare(self, labels: np.ndarray) -> list[int]:
        """Return the numbers of the test rows whose outputs the report shows. Empty if it shows none."""
        return []

    def by_label(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the precision, recall, F1 and number of occurrences of each label, tag or type of span.

        The result is keyed by the name of the label, tag or type. `names` are the names of the outputs. The result is
        empty if the report has no table of labels for this metric.
        """
        return {}

    def check_size(self, labels: np.ndarray, set_name: str = EVALUATED_SET) -> None:
        """Raise `DataError` if a set is too small for the metric. The message calls the set `set_name`."""
        if (size := self.size(labels)) < self.least_size:
            raise DataError(
                f"{set_name} needs at least {self.least_size} {self.size_word} for {self.name}, but has {size}; give "
                f"more {self.size_word}"
            )
