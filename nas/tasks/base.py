"""The interface of a kind of task: it defines the labels of rows, the outputs of networks, and how outputs are scored.

Each kind has a module with a subclass of `TaskKind` and one of `Metric`, and an entry in `nas.tasks.REGISTRY`. Torch,
scikit-learn and scipy are imported only inside methods, so that a study can be read and checked without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from nas.errors import DataError
from nas.form import NetworkForm
from nas.tasks.labels import Head, LabelColumn

if TYPE_CHECKING:
    import torch

Problem = Literal["regression", "single_label_classification", "multi_label_classification"]
"""The `problem_type` of a classifier, as transformers defines it."""
Meaning = Literal["classes", "scale", "lists", "grades", "tags"]
"""The content of a label column in each row: a class, a number on a scale, a list of labels, a grade of relevance to
the row's query, or a list with a tag for each word."""
Evaluation = Literal["rows", "pairs", "retrieval", "texts"]
"""The content of the search and test sets: labelled `rows` like those for training; `pairs` of texts with a score;
queries and passages with grades of relevance, for `retrieval`; or `texts` whose labels are the teacher's outputs."""
OutputWidth = Literal["teacher", "own"]
"""The width of a network's outputs: the teacher's width, or the network's own hidden size."""
GROUP, REFERENCE = "group", "judged"
"""Columns that a tokenised split may have in addition to `labels`. `GROUP` holds the number of each row's group. In a
search or test set, a negative number means that the row belongs to every group, as the passages of a corpus belong to
every query. `REFERENCE` holds the reference values for the metric, if they differ from the labels used in training."""
LENGTH_FILE = "sentence_bert_config.json"
IGNORED = -100
"""The label of a token that has no tag and is not evaluated, as in transformers."""
_MANY_LABELS = 8
"""If there are at least this many labels, a description states their number instead of their names."""


class TaskSettings(Protocol):
    """The settings of a study's `[task]` that a kind of task depends on."""

    @property
    def metric(self) -> str:
        """The name of the metric, or `module:function` for a user-defined one."""

    @property
    def positive(self) -> str | None:
        """The class for which f1, precision, recall or roc_auc is computed; None if the study does not name one."""

    @property
    def label(self) -> str | tuple[str, ...]:
        """The name of the label column, or the names of several label columns."""

    @property
    def threshold(self) -> float | str | None:
        """The smallest probability at which a label applies, `search` to choose it on the search set, or None."""

    @property
    def text(self) -> tuple[str, ...]:
        """The names of the text columns: one, or two for text pairs."""

    @property
    def query(self) -> str | None:
        """The name of the column that identifies each row's query; None if the first text column does."""

    @property
    def search(self) -> str | None:
        """The file of the search set; None if the search set is held out of the training rows."""

    @property
    def pair(self) -> tuple[str, ...]:
        """The names of the two columns that hold the texts of a pair, in the search set and in the test set."""

    @property
    def output_width(self) -> OutputWidth:
        """The width of a network's outputs, for kinds with `TaskKind.has_output_width`."""


def is_custom(metric: str) -> bool:
    """Whether the name of a metric refers to a user-defined function; see `nas.tasks.custom_metric`."""
    return ":" in metric


def in_groups(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return records (rows,) with the fields `label` and `group`, the format for metrics that score groups of rows."""
    records = np.empty(len(labels), dtype=[("label", labels.dtype, labels.shape[1:]), (GROUP, np.int64)])
    records["label"], records[GROUP] = labels, groups
    return records


@dataclass(frozen=True)
class TaskLabels:
    """The labels of a task's training and test files, converted to numbers."""

    values: Mapping[str, list[Any]]
    """The labels of the rows in the files `train` and `test`, such as class numbers or targets."""
    names: tuple[str, ...]
    """The names of a network's outputs in order; empty if the outputs have no names, as in regression."""
    notes: tuple[str, ...] = ()
    """Notes for the user about the labels, one line each."""
    judged: Mapping[str, list[Any]] | None = None
    """The reference values for the metric, in the form of `values`; None if the metric uses `values` themselves."""


@dataclass(frozen=True)
class Metric(ABC):
    """A metric, which turns a network's outputs into answers and scores them.

    Logits have the shape (texts, outputs) and labels (texts, ...). If rows are evaluated in groups, labels are the
    records of `in_groups`. If each token has a label, logits have the shape (texts, tokens, outputs) and labels
    (texts, tokens), with `IGNORED` for tokens that are not evaluated. Instances are immutable values, because they
    are sent to the processes that evaluate candidates.
    """

    name: str
    """The name in the study's `task.metric`."""
    label: str = ""
    """The name in tables and messages; by default the same as `name`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def note(self) -> str:
        """Sentences that explain the score in the report and the model card; empty if its name says enough."""
        return ""

    @property
    def is_share(self) -> bool:
        """Whether the score is the share of texts with a correct answer."""
        return False

    @property
    def needs_float32(self) -> bool:
        """Whether the score depends on differences between outputs that are too small for bf16."""
        return False

    @property
    def least_size(self) -> int:
        """The smallest value of `size` for which the metric is defined."""
        return 1

    @property
    def size_word(self) -> str:
        """The plural noun for the items that `size` counts."""
        return "texts"

    def size(self, labels: np.ndarray) -> int:
        """Return the number of items that are scored: texts, pairs, or groups of texts."""
        return len(labels)

    def describe_size(self, labels: np.ndarray) -> str:
        """Return the number of scored items in words, such as "1,000 texts"."""
        texts = f"{len(labels):,} texts"
        return f"{self.size(labels):,} {self.size_word} ({texts})" if self.judges_groups else texts

    @abstractmethod
    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Return the score of logits, given the labels; higher is better."""

    def bootstrap_scores(self, logits: np.ndarray, labels: np.ndarray, draws: Iterable[np.ndarray]) -> list[float]:
        """Return the score of each bootstrap sample; each item of `draws` holds row numbers, possibly repeated."""
        return [self.score(logits[rows], labels[rows]) for rows in draws]

    @abstractmethod
    def answers(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """Return the discrete answers that follow from these logits, one row per text; None if outputs are numbers.

        Labels are used only to find the tokens that are evaluated.
        """

    def predictions(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the predictions that a user-defined metric compares with the labels, one row per text.

        This is used only for kinds with `TaskKind.takes_custom_metrics`.
        """
        answers = self.answers(logits, labels)
        assert answers is not None
        return answers

    def is_correct(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return for each text whether its answer is correct, (texts,); only for metrics with `is_share`."""
        raise NotImplementedError(f"{self.name} is not a share of right answers")

    @property
    def judges_groups(self) -> bool:
        """Whether the score is the mean of the scores of groups of texts, such as the passages of a query."""
        return False

    def group_scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the score of each group, (groups,); only for metrics with `judges_groups`."""
        raise NotImplementedError(f"{self.name} does not score groups")

    def confidence(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the probability that a network assigns to the correct answer of each text, (texts,).

        Only for metrics with `is_share`. Fewer texts are needed to tell networks apart by the mean of these
        probabilities than by the share of correct answers.
        """
        return self.is_correct(logits, labels).astype(np.float64)

    def constant_answer(self, labels: np.ndarray, outputs: int) -> np.ndarray | None:
        """Return logits that give the best constant answer to all texts; None if any constant answer scores 0."""
        return None

    @abstractmethod
    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return simulated logits of a network with about this share of correct answers, or with this correlation.

        They are used to estimate the standard error of the metric before any network exists.
        """

    def simulated_labels(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the labels for `simulated`: `labels`, or random ones if the labels are outputs of a teacher."""
        return labels

    def assumption(self, share: float) -> str:
        """Return what is assumed about the network that `simulated` simulates, as a phrase that follows "assuming"."""
        return f"that {share:.0%} of the answers are right"

    @property
    def is_calibrated(self) -> bool:
        """Whether all settings, such as thresholds, have values. If not, call `calibrated` with the search set."""
        return True

    def calibrated(self, logits: np.ndarray, labels: np.ndarray) -> Metric:
        """Return this metric with missing settings, such as thresholds, chosen for the best score on these logits."""
        return self

    def config_entries(self, outputs: int) -> dict[str, Any]:
        """Return additional entries of `config.json` that define how outputs become answers, such as thresholds."""
        return {}

    def label_counts(self, labels: np.ndarray) -> dict[str, int]:
        """Return further counts about the labels of a set, by a description of each count; empty if there are none."""
        return {}

    def rows_to_compare(self, labels: np.ndarray) -> list[int]:
        """Return the numbers of the test rows whose outputs the report shows; empty if it shows none."""
        return []

    def by_label(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return precision, recall, F1 and number of occurrences of each label, tag or type of span, by its name.

        `names` are the names of the outputs. The result is empty if the report has no table of labels for this
        metric.
        """
        return {}

    def check_size(
        self, labels: np.ndarray, set_name: str = "The evaluated set (search.examples, search.least_tokens)"
    ) -> None:
        """Raise `DataError` if a set is too small for the metric; `set_name` names the set in the message."""
        if (size := self.size(labels)) < self.least_size:
            raise DataError(
                f"{set_name} needs at least {self.least_size} {self.size_word} for {self.name}, but has {size}; give "
                "more"
            )


class TaskKind(ABC):
    """A kind of task, which defines labels, metrics, distillation loss and exports. Instances have no state."""

    name: ClassVar[str]
    """The value of `task.kind` that selects this kind."""
    metrics: ClassVar[tuple[str, ...]]
    """The names of the kind's metrics; `nas init` proposes the first one."""
    takes_custom_metrics: ClassVar[bool] = False
    """Whether user-defined metrics are supported, which compare a prediction for each text with its label."""
    examples: ClassVar[tuple[Mapping[str, Sequence[Any]], ...]]
    """Examples of label columns in data files, by column name, for the contract tests of task kinds."""
    problem_type: ClassVar[Problem]
    """The `problem_type` that `config.json` needs so that transformers treats a network as one of this kind."""
    has_one_output: ClassVar[bool] = False
    """Whether a network outputs a single number, which is standardised for the distillation."""
    predicts_numbers: ClassVar[bool] = False
    """Whether labels and outputs are numbers on a scale; labels are standardised for fine-tuning."""
    single_class_metrics: ClassVar[tuple[str, ...]] = ()
    """The metrics that can be computed for a single class, which `task.positive` names."""
    meaning: ClassVar[Meaning] = "classes"
    """The content of a label column of this kind; `nas init` uses it to propose a kind."""
    several_columns: ClassVar[bool] = False
    """Whether `task.label` may name several columns, one per label."""
    has_thresholds: ClassVar[bool] = False
    """Whether a label applies if its probability reaches a threshold, which `task.threshold` sets."""
    has_output_width: ClassVar[bool] = False
    """Whether `task.output_width` selects the width of a network's outputs."""
    label_word: ClassVar[str] = "classes"
    """The plural noun for the labels of this kind."""
    why_no_exits: ClassVar[str] = ""
    """The reason why texts cannot exit a network early, worded as a clause for messages; empty if they can."""
    network_form: ClassVar[NetworkForm] = NetworkForm()
    """The form of this kind's networks, unless it depends on the teacher; see `form`."""
    judges_groups: ClassVar[bool] = False
    """Whether rows are evaluated in groups, such as the passages of a query; see `group_column`."""
    why_no_student: ClassVar[str] = ""
    """The reason why a student cannot learn from stored outputs of another model; empty if it can."""
    learns_from_texts: ClassVar[bool] = False
    """Whether training uses texts without labels, while `evaluated_on` says what search and test sets consist of. The
    teacher is then never fine-tuned."""
    has_static: ClassVar[bool] = True
    """Whether a linear classifier on averaged token embeddings can serve as a baseline."""
    needs_pairs: ClassVar[bool] = False
    """Whether each row must consist of two texts."""
    has_words: ClassVar[bool] = False
    """Whether each text is a list of words, and each label a list with one tag per word."""
    text_words: ClassVar[str] = "two columns for pairs"
    """A description of `task.text`, which `nas init` writes as a comment into the study file."""
    hub_task: ClassVar[str] = "text-classification"
    """The name of the task on the Hugging Face hub (`pipeline_tag`)."""
    hub_library: ClassVar[str] = "transformers"
    """The library that loads an export, as the hub names it (`library_name`)."""
    pipeline: ClassVar[str] = "text-classification"
    """The name of the transformers pipeline that serves an export; empty if none does."""
    pipeline_arguments: ClassVar[str] = ", truncation=True"
    """Python arguments with which this pipeline returns the full answer for a text of any length."""

    def variant(self, settings: TaskSettings) -> TaskKind:
        """Return the variant of this kind that the settings of a task select; by default the kind itself.

        Variants may differ in `form`, `divergence`, `usage` and `describe_outputs`.
        """
        return self

    def check(self, settings: TaskSettings) -> None:
        """Raise `ValueError`, with the key and a remedy, if the settings do not fit the kind."""
        if settings.metric not in self.metrics:
            self._check_custom_metric(settings)
        if settings.positive is not None and settings.metric not in self.single_class_metrics:
            reason = (
                f"only {', '.join(self.single_class_metrics)} can be computed for a single class"
                if self.single_class_metrics
                else f"no metric of {self.name} is computed for a single class"
            )
            raise ValueError(
                f"positive: {reason}, but the metric is {settings.metric!r}; remove positive"
                + (", or set another metric" if self.single_class_metrics else "")
            )
        if not isinstance(settings.label, str) and not self.several_columns:
            raise ValueError(
                f"label: {self.name} has one column of labels, but got {', '.join(settings.label)}; name one, or set "
                "kind = 'multi_label' if each column is one label"
            )
        if settings.threshold is not None and not self.has_thresholds:
            raise ValueError(f"threshold: {self.name} has no threshold, but got {settings.threshold!r}; remove it")
        if settings.query is not None and not self.judges_groups:
            raise ValueError(f"query: {self.name} evaluates each row separately, but got {settings.query!r}; remove it")
        self.check_evaluation(settings)
        if self.needs_pairs and len(settings.text) != 2:
            raise ValueError(
                f"text: {self.name} needs two columns of texts, but got {', '.join(settings.text)}; name both"
            )
        if self.has_words and len(settings.text) != 1:
            raise ValueError(
                f"text: {self.name} needs one column with lists of words, but got {', '.join(settings.text)}; name one"
            )

    def _check_custom_metric(self, settings: TaskSettings) -> None:
        """Raise `ValueError` unless the metric is a user-defined function and the kind supports such functions."""
        remedy = f"use {', '.join(self.metrics)}" + (", or module:function" if self.takes_custom_metrics else "")
        if not is_custom(settings.metric):
            raise ValueError(f"metric: {settings.metric!r} is not a metric of {self.name}; {remedy}")
        if not self.takes_custom_metrics:
            raise ValueError(f"metric: {self.name} does not support functions such as {settings.metric!r}; {remedy}")
        self.metric(settings)

    def evaluated_on(self, metric: str) -> Evaluation:
        """Return the content of the search and test sets for one of the kind's metrics."""
        return "rows"

    def check_evaluation(self, settings: TaskSettings) -> None:
        """Raise `ValueError` if settings of the search and test sets are missing, or given but not used."""
        for key, value in (("search", settings.search), ("pair", settings.pair)):
            if value:
                raise ValueError(
                    f"{key}: {self.name} is evaluated on rows held out of the training rows, but got {value!r}; "
                    "remove it"
                )

    def group_column(self, settings: TaskSettings) -> str | None:
        """Return the column that names each row's group; None if rows are evaluated and held out one by one."""
        return (settings.query or settings.text[0]) if self.judges_groups else None

    @abstractmethod
    def metric(self, settings: TaskSettings, names: Sequence[str] = ()) -> Metric:
        """Return the metric for a task whose outputs have these names.

        Without names, return a metric that is based only on the study's settings. Raises `DataError` if the names do
        not fit the settings.
        """

    @abstractmethod
    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        """Return the labels of the training and test files, read from the columns that the study names.

        Classes are numbered as in the teacher's classifier `head`, if there is one. Raises `DataError` for labels
        that do not fit the kind, and `TeacherError` for a classifier that does not fit the labels.
        """

    def output_names(self, names: Sequence[str]) -> dict[int, str]:
        """Return the names of a network's outputs by number, for the entry `id2label` of `config.json`."""
        return dict(enumerate(names))

    @abstractmethod
    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        """Return whether a fine-tuned teacher with this problem type and number of outputs fits the kind."""

    def form(self, teacher: str) -> NetworkForm:
        """Return the form of the networks, given the teacher's folder. Raises `TeacherError` if it is unsupported."""
        return self.network_form

    @property
    def teacher_requirement(self) -> str:
        """The property that a fine-tuned teacher must have, for messages about teachers that do not fit."""
        return self.problem_type

    def first_bias(self, labels: np.ndarray, outputs: int) -> np.ndarray | None:
        """Return the initial bias (outputs,) of a new classifier for these labels; None to keep the default one."""
        return None

    def counts(self, labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
        """Return the number of occurrences of each label, by its name; empty if labels have no names."""
        occurrences = Counter(labels)
        return {name: occurrences[number] for number, name in enumerate(names)}

    @abstractmethod
    def divergence(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        groups: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the distillation loss of a network's logits against its teacher's: a scalar, the mean over texts.

        Logits have the shape (texts, outputs), or (texts, tokens, outputs) if each token has a label. `mask` (texts,
        tokens) is then 1 for the tokens that the loss includes; without a mask, it includes all. `groups` (texts,)
        holds the group number of each text, for kinds that evaluate groups.
        """

    def describe_outputs(self, hidden_sizes: Sequence[int]) -> str:
        """Return a description of the outputs for `nas check`; empty if the labels determine them.

        `hidden_sizes` are those of the search space in ascending order. The last one is the teacher's.
        """
        return ""

    def served_as(self, teacher: Mapping[str, Any], fine_tuned: bool) -> dict[str, Any]:
        """Return the entries of an export's `config.json` that define how its outputs become answers.

        `teacher` is the configuration of the folder that the teacher was loaded from; `fine_tuned` says whether the
        teacher was fine-tuned afterwards.
        """
        return {"problem_type": self.problem_type}

    def extra_files(self, served: Mapping[str, Any], max_length: int) -> dict[str, Any]:
        """Return the contents of JSON files that other libraries look for in an export, by file name.

        `served` is the result of `served_as`. `max_length` is the number of tokens to which texts are truncated,
        which text-embeddings-inference reads from one of these files.
        """
        return {LENGTH_FILE: {"max_seq_length": max_length}}

    def snippets(self, folder: str, trust: str) -> list[tuple[str, str]]:
        """Return the titles and Python code of further examples that load an export, for the model card.

        `folder` is a Python string literal. `trust` is the argument that lets transformers load the folder's own
        class, or empty if the folder has none.
        """
        return []

    @property
    def usage(self) -> str:
        """Notes for the model card on how to read the answers of an export; empty if there are none."""
        return ""

    def summary(self, texts: str, labels: Sequence[str]) -> str:
        """Return a description such as "Classifies texts" for the model card; `labels` are the names of the outputs."""
        if len(labels) >= _MANY_LABELS:
            return f"Classifies {texts} into {len(labels)} classes"
        return f"Classifies {texts}" + (f" as {any_of(labels)}" if len(labels) > 1 else "")


def any_of(labels: Sequence[str]) -> str:
    """Return the labels joined by "or", or only their number if there are many."""
    if len(labels) >= _MANY_LABELS:
        return f"{len(labels)} labels"
    return f"{', '.join(labels[:-1])} or {labels[-1]}"


def problem_of(problem_type: str | None, outputs: int | None) -> str:
    """Return the given problem type, or else the one that transformers assumes for this number of outputs."""
    return problem_type or ("regression" if outputs == 1 else "single_label_classification")
