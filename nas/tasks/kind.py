"""The interface of a kind of task, which defines labels, network outputs and metrics.

Each kind of task has a module with a subclass of `TaskKind` and a subclass of `Metric`. `nas.tasks.REGISTRY` contains
an instance of each kind. Torch, scikit-learn and scipy are imported only inside methods, so that a study can be read
and checked without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from nas.errors import listed
from nas.form import NetworkForm
from nas.sentence_modules import TEXTS_FILE
from nas.tasks.labels import LabelColumn
from nas.tasks.metric import Metric, is_custom
from nas.tasks.numbering import Head

if TYPE_CHECKING:
    from torch import Tensor

Problem = Literal["regression", "single_label_classification", "multi_label_classification"]
"""The `problem_type` of a classifier, as transformers defines it."""
Meaning = Literal["classes", "scale", "lists", "grades", "tags"]
"""The kind of value in a label column: a class, a number on a scale, a list of labels, a grade of the row's relevance
to its query, or a list with one tag per word."""
Evaluation = Literal["rows", "pairs", "retrieval", "texts"]
"""The kind of data that the search and test sets hold. `rows`: labelled rows like those of the training set. `pairs`:
pairs of texts with a score. `retrieval`: queries and passages with grades of relevance. `texts`: texts for which
the teacher's outputs serve as labels."""
OutputWidth = Literal["teacher", "own"]
"""The width of a network's outputs: `teacher` is the teacher's width, `own` the network's hidden size."""
_MANY_LABELS = 8
"""The smallest number of labels at which a description gives their number instead of their names."""


class TaskSettings(Protocol):
    """The settings of a study's `[task]` that a kind of task depends on."""

    metric: str
    """The name of the metric, or `module:function` for a user-defined one."""
    positive: str | None
    """The class for which f1, precision, recall or roc_auc is computed. None if the study sets no class."""
    label: str | tuple[str, ...]
    """The name of the label column, or the names of several label columns."""
    threshold: float | Literal["search"] | None
    """The smallest probability at which a label applies.

    `search` stands for the thresholds that score best on the search set. None if the study sets no threshold.
    """
    text: tuple[str, ...]
    """The names of the text columns: one column, or two for text pairs."""
    query: str | None
    """The name of the column that identifies each row's query. None if the first text column identifies it."""
    search: str | None
    """The file or split of the search set. None if the search set is held out of the training rows."""
    pair: tuple[str, ...]
    """The names of the two columns of the search and test sets that hold the texts of each pair."""
    output_width: OutputWidth
    """The width of a network's outputs. Only kinds with `TaskKind.has_output_width` use this setting."""


@dataclass(frozen=True)
class TaskLabels:
    """The labels of a task's training and test files, converted to numbers."""

    values: Mapping[str, list[Any]]
    """The labels of all rows, such as class numbers or targets, keyed by `train` and `test`."""
    names: tuple[str, ...]
    """The names of a network's outputs, in the order of the outputs. Empty if outputs have no names, as in
    regression."""
    notes: tuple[str, ...] = ()
    """Messages to the user about the labels. Each message is one line."""
    judged: Mapping[str, list[Any]] | None = None
    """The labels for the metric, in the same structure as `values`. None if the metric uses `values`."""


class TaskKind(ABC):
    """A kind of task, which defines labels, metrics, the distillation loss and details of exports.

    Instances have no state.
    """

    name: ClassVar[str]
    """The value of `task.kind` that selects this kind."""
    metrics: ClassVar[tuple[str, ...]]
    """The names of the metrics of this kind of task. `nas init` proposes the first one."""
    takes_custom_metrics: ClassVar[bool] = False
    """Whether user-defined metrics are supported. Such a metric compares one prediction per text with its label."""
    examples: ClassVar[tuple[Mapping[str, Sequence[Any]], ...]]
    """Examples of label columns for the contract tests of task kinds. Each example maps column names to labels."""
    problem_type: ClassVar[Problem]
    """The `problem_type` that `config.json` must contain so that transformers handles this kind of task correctly."""
    has_one_output: ClassVar[bool] = False
    """Whether a network outputs a single number. The outputs are then standardised for the distillation."""
    predicts_numbers: ClassVar[bool] = False
    """Whether labels and outputs are numbers on a scale. The labels are then standardised for fine-tuning."""
    single_class_metrics: ClassVar[tuple[str, ...]] = ()
    """The metrics that can be computed for a single class. `task.positive` selects this class."""
    meaning: ClassVar[Meaning] = "classes"
    """The kind of value in a label column. From this kind of value, `nas init` infers the kind of task."""
    several_columns: ClassVar[bool] = False
    """Whether `task.label` may name several columns, one per label."""
    has_thresholds: ClassVar[bool] = False
    """Whether a label applies if its probability reaches a threshold. `task.threshold` sets this threshold."""
    has_output_width: ClassVar[bool] = False
    """Whether `task.output_width` selects the width of a network's outputs."""
    label_word: ClassVar[str] = "classes"
    """The plural noun for the labels of this kind."""
    why_no_exits: ClassVar[str] = ""
    """The reason why early exits are not supported, worded as a clause for messages. Empty if they are supported."""
    network_form: ClassVar[NetworkForm] = NetworkForm()
    """The form of this kind's networks. If the form also depends on the teacher, the method `form` is overridden."""
    judges_groups: ClassVar[bool] = False
    """Whether rows are evaluated in groups, such as the passages of a query. See `group_column`."""
    why_no_student: ClassVar[str] = ""
    """The reason why a student cannot learn from the stored outputs of another model. Empty if it can."""
    learns_from_texts: ClassVar[bool] = False
    """Whether networks are trained on texts without labels. The teacher is then never fine-tuned. The search and test
    sets may still have labels; see `evaluated_on`."""
    has_static: ClassVar[bool] = True
    """Whether the static model, a linear classifier on averaged token embeddings, can serve as a baseline."""
    needs_pairs: ClassVar[bool] = False
    """Whether each row must consist of two texts."""
    has_words: ClassVar[bool] = False
    """Whether each text is a list of words, and each label a list with one tag per word."""
    text_words: ClassVar[str] = "two columns for pairs"
    """A description of `task.text`. `nas init` writes it as a comment into the study file."""
    hub_task: ClassVar[str] = "text-classification"
    """The name of the task on the Hugging Face hub (`pipeline_tag`)."""
    hub_library: ClassVar[str] = "transformers"
    """The name, on the Hugging Face hub, of the library that loads an export (`library_name`)."""
    pipeline: ClassVar[str] = "text-classification"
    """The name of the transformers pipeline that serves an export. Empty if there is no such pipeline."""
    pipeline_arguments: ClassVar[str] = ", truncation=True"
    """Python arguments that make this pipeline return a full answer for texts of any length."""

    def variant(self, settings: TaskSettings) -> TaskKind:
        """Return the variant of this kind that the settings of a task select. By default, return the kind itself.

        Variants may override `form`, `divergence`, `usage` and `describe_outputs`.
        """
        return self

    def check(self, settings: TaskSettings) -> None:
        """Raise `ValueError` if the settings do not fit this kind of task.

        The message names the key and a remedy.
        """
        if settings.metric not in self.metrics:
            self._check_custom_metric(settings)
        if settings.positive is not None and settings.metric not in self.single_class_metrics:
            if not self.single_class_metrics:
                raise ValueError(
                    f"positive: must not be set if the kind is {self.name}, because none of its metrics is computed "
                    f"for a single class, but got {settings.positive!r}; remove positive"
                )
            metrics = listed(self.single_class_metrics, "and")
            raise ValueError(
                f"positive: only {metrics} can be computed for a single class, but the metric is "
                f"{settings.metric!r}; remove positive, or set another metric"
            )
        if not isinstance(settings.label, str) and not self.several_columns:
            raise ValueError(
                f"label: {self.name} needs one column of labels, but got {list(settings.label)}; name only one, or set "
                "kind = 'multi_label' if each column stands for one label"
            )
        if settings.threshold is not None and not self.has_thresholds:
            raise ValueError(
                f"threshold: must not be set if the kind is {self.name}, which has no thresholds, but got "
                f"{settings.threshold!r}; remove threshold"
            )
        if settings.query is not None and not self.judges_groups:
            raise ValueError(
                f"query: must not be set if the kind is {self.name}, which evaluates each row separately, but got "
                f"{settings.query!r}; remove query"
            )
        self.check_evaluation(settings)
        if self.needs_pairs and len(settings.text) != 2:
            raise ValueError(
                f"text: {self.name} needs two columns of texts, but got {list(settings.text)}; name both columns"
            )
        if self.has_words and len(settings.text) != 1:
            raise ValueError(
                f"text: {self.name} needs one column with lists of words, but got {list(settings.text)}; name one "
                "column"
            )

    def _check_custom_metric(self, settings: TaskSettings) -> None:
        """Raise `ValueError` unless the metric is a user-defined function and the kind supports such functions."""
        function = ", or a function as module:function" if self.takes_custom_metrics else ""
        remedy = f"use one of {', '.join(self.metrics)}{function}"
        if not is_custom(settings.metric):
            raise ValueError(f"metric: {settings.metric!r} is not a metric of {self.name}; {remedy}")
        if not self.takes_custom_metrics:
            raise ValueError(
                f"metric: {self.name} does not support user-defined metrics such as {settings.metric!r}; {remedy}"
            )
        self.metric(settings)

    def proposed_metric(self, names: Sequence[str]) -> str:
        """Return the metric that `nas init` proposes for labels with these names; `names` is empty if unknown.

        Raises `DataError` if the metric is unclear, so that the user has to choose one.
        """
        return self.metrics[0]

    def evaluated_on(self, metric: str) -> Evaluation:
        """Return which kind of data the search and test sets hold if a task uses this metric.

        This is `rows` for all tasks whose training data has labels.
        """
        return "rows"

    def check_evaluation(self, settings: TaskSettings) -> None:
        """Raise `ValueError` if `search` or `pair` is missing but necessary, or is set but has no effect."""
        if settings.search:
            raise ValueError(
                f"search: must not be set if the kind is {self.name}, because its search set is held out of the "
                f"training rows, but got {settings.search!r}; remove search"
            )
        if settings.pair:
            raise ValueError(
                f"pair: must not be set if the kind is {self.name}, because its search and test sets have the same "
                f"columns as its training set, but got {list(settings.pair)}; remove pair"
            )

    def group_column(self, settings: TaskSettings) -> str | None:
        """Return the name of the column that identifies each row's group.

        Return None if rows do not form groups. Each row is then evaluated and held out separately.
        """
        return (settings.query or settings.text[0]) if self.judges_groups else None

    @abstractmethod
    def metric(self, settings: TaskSettings, names: Sequence[str] = ()) -> Metric:
        """Return the metric for networks whose outputs have these names.

        If `names` is empty, the metric depends only on the settings. Raises `DataError` if the names do not fit the
        settings.
        """

    @abstractmethod
    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        """Convert the label columns of the training and test files to the labels of the task.

        If the teacher has a classifier (`head`), classes get the same numbers as in this classifier. Raises `DataError`
        for labels that do not fit the kind of task, and `TeacherError` for a classifier that does not fit the labels.
        """

    def output_names(self, names: Sequence[str]) -> dict[int, str]:
        """Return the names of a network's outputs, keyed by output number, for `id2label` in `config.json`."""
        return dict(enumerate(names))

    @abstractmethod
    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        """Return whether a fine-tuned teacher with this problem type and this number of outputs suits the kind."""

    def form(self, teacher: str) -> NetworkForm:
        """Return the form of the networks for the teacher in the folder `teacher`.

        Raises `TeacherError` if this teacher is not supported.
        """
        return self.network_form

    def module_files(self, teacher: Path) -> Sequence[Path]:
        """Return the files on which the teacher's outputs depend and which are in subfolders of the teacher's folder.

        If one of these files changes, results are outdated, as after a change of the teacher's weights.
        """
        return ()

    def most_tokens(self, teacher: str) -> int | None:
        """Return the number of tokens to which the teacher's own library truncates texts; None if there is no limit.

        `teacher` is the teacher's folder.
        """
        return None

    def lowers_case(self, teacher: str) -> bool:
        """Return whether the teacher's own library converts texts to lower case before it tokenises them."""
        return False

    @property
    def teacher_requirement(self) -> str:
        """The property that a fine-tuned teacher must have, worded for messages about unsuitable teachers."""
        return self.problem_type

    def first_bias(self, labels: np.ndarray, outputs: int) -> np.ndarray | None:
        """Return the initial bias of a new classifier for these labels, with the shape (outputs,).

        Return None to keep the default bias.
        """
        return None

    def counts(self, labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
        """Return the number of occurrences of each label, keyed by its name. Empty if labels have no names."""
        if not names:
            return {}
        occurrences = Counter(labels)
        return {name: occurrences[number] for number, name in enumerate(names)}

    @abstractmethod
    def divergence(
        self, student: Tensor, teacher: Tensor, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the distillation loss between the logits of student and teacher: a scalar, averaged over texts.

        Logits have the shape (texts, outputs). If each token has a label, logits have the shape (texts, tokens,
        outputs) and `mask` has the shape (texts, tokens). The loss then includes only tokens whose mask is 1, or all
        tokens if there is no mask. `groups` has the shape (texts,) and holds the number of each text's group. Only
        kinds that evaluate rows in groups use it.
        """

    def describe_outputs(self, hidden_sizes: Sequence[int], form: NetworkForm) -> str:
        """Return a description of the outputs for `nas check`. Empty if the labels determine the outputs.

        `hidden_sizes` are the hidden sizes in the search space, in ascending order. The last one is the teacher's.
        `form` is the form of the networks.
        """
        return ""

    def served_as(self, teacher: Mapping[str, Any], fine_tuned: bool) -> dict[str, Any]:
        """Return the entries of an export's `config.json` that define how outputs become answers.

        `teacher` is the configuration in the teacher's original folder. `fine_tuned` is true if the run has fine-tuned
        the teacher.
        """
        return {"problem_type": self.problem_type}

    def extra_files(self, served: Mapping[str, Any], max_length: int) -> dict[str, Any]:
        """Return the JSON contents of additional files that other libraries expect in an export, keyed by file name.

        `served` is the result of `served_as`. `max_length` is the number of tokens to which texts are truncated.
        text-embeddings-inference reads this number from one of the files.
        """
        return {TEXTS_FILE: {"max_seq_length": max_length}}

    def snippets(self, folder: str, trust: str) -> list[tuple[str, str]]:
        """Return additional examples for the model card: pairs of a title and Python code that loads an export.

        `folder` is the export's folder as a Python string literal. `trust` is the Python argument that allows
        transformers to load a model class from this folder. It is empty if the folder contains no such class.
        """
        return []

    @property
    def usage(self) -> str:
        """Notes for the model card about the meaning of an export's answers. Empty if there are none."""
        return ""

    def summary(self, texts: str, labels: Sequence[str]) -> str:
        """Return a phrase for the model card, such as "Classifies texts". `labels` are the names of the outputs."""
        if len(labels) >= _MANY_LABELS:
            return f"Classifies {texts} into {len(labels)} classes"
        return f"Classifies {texts}" + (f" as {any_of(labels)}" if len(labels) > 1 else "")


def any_of(labels: Sequence[str]) -> str:
    """Return the labels joined by commas and "or". If there are many labels, return only their number."""
    if len(labels) >= _MANY_LABELS:
        return f"{len(labels)} labels"
    return f"{', '.join(labels[:-1])} or {labels[-1]}"


def problem_of(problem_type: str | None, outputs: int | None) -> str:
    """Return `problem_type`. If it is None, return the type that transformers assumes for this number of outputs."""
    return problem_type or ("regression" if outputs == 1 else "single_label_classification")
