"""The contract of a kind of task: what a row's label is, what a network outputs for it, and how that is judged.

A kind is one file with one subclass of `TaskKind`, its `Metric`, and one line in the registry. Torch, scikit-learn and
scipy are only touched inside the methods, so that a study can be read and checked without them.
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
"""What the outputs of a classifier are, in the words of transformers."""
Meaning = Literal["classes", "scale", "lists", "grades", "tags"]
"""What a column of labels holds: a class a row, a number on a scale, a list of labels, how relevant a row is to its
query, or a tag for each word."""
GROUP, JUDGED = "group", "judged"
"""Columns that a tokenised split may have beside `labels`: the number of each row's group, and what the metric compares
outputs with where trainings learn from something else."""
LENGTH_FILE = "sentence_bert_config.json"
IGNORED = -100
"""The label of a token that has none, as in transformers."""
_MANY_LABELS = 8
"""From this number on labels are counted, not named."""


class TaskSettings(Protocol):
    """What a kind is told of a study's `[task]`."""

    @property
    def metric(self) -> str:
        """The name of the metric."""

    @property
    def positive(self) -> str | None:
        """The class that f1, precision, recall or roc_auc is of."""

    @property
    def label(self) -> str | tuple[str, ...]:
        """The column of labels, or several columns."""

    @property
    def threshold(self) -> float | str | None:
        """The probability from which a label applies, or `search`."""

    @property
    def text(self) -> tuple[str, ...]:
        """The columns of texts."""

    @property
    def query(self) -> str | None:
        """The column that says which rows are judged together."""

    @property
    def search(self) -> str | None:
        """The search set, where it is not held out of the training rows."""

    @property
    def pair(self) -> tuple[str, ...]:
        """The columns of the texts that are compared."""


def is_own(metric: str) -> bool:
    """Whether a metric's name is that of a function of one's own; see `nas.tasks.own_metric`."""
    return ":" in metric


def in_groups(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Records (rows,) of `label` and `group`: what a metric that judges groups of rows compares outputs with."""
    found = np.empty(len(labels), dtype=[("label", labels.dtype, labels.shape[1:]), (GROUP, np.int64)])
    found["label"], found[GROUP] = labels, groups
    return found


@dataclass(frozen=True)
class TaskLabels:
    """The labels of a task's files as numbers."""

    values: Mapping[str, list[Any]]
    """The label of each row, by the name of the file: a class number, a target, or whatever the kind stores."""
    names: tuple[str, ...]
    """The names of a network's outputs in order; none where it outputs a number."""
    notes: tuple[str, ...] = ()
    """What a user should know about them, a line each."""
    judged: Mapping[str, list[Any]] | None = None
    """What the metric compares outputs with, by the name of the file; None if that is `values` too."""


@dataclass(frozen=True)
class Metric(ABC):
    """How outputs become answers, and how these are scored. It travels to the processes that evaluate candidates.

    Logits are (texts, outputs) and labels (texts, ...). If the task judges rows in groups, labels are the records of
    `in_groups`. Where each token has a label, logits are (texts, tokens, outputs) and labels (texts, tokens), `IGNORED`
    for tokens that are not judged.
    """

    name: str
    """As in the study's `task.metric`."""
    label: str = ""
    """How tables and messages name it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def is_share(self) -> bool:
        """Whether the score is the share of texts whose answer is right."""
        return False

    @property
    def needs_float32(self) -> bool:
        """Whether the score depends on small differences between outputs, for which bf16 has too few bits."""
        return False

    @property
    def least_size(self) -> int:
        """The number of texts that it can be computed from, or of whatever else `size` counts."""
        return 1

    @property
    def size_word(self) -> str:
        """What `size` counts, in the plural."""
        return "texts"

    def size(self, labels: np.ndarray) -> int:
        """How many texts, or groups of texts, are judged."""
        return len(labels)

    def in_words(self, labels: np.ndarray) -> str:
        """What is judged, with its number."""
        texts = f"{len(labels):,} texts"
        return f"{self.size(labels):,} {self.size_word} ({texts})" if self.judges_groups else texts

    @abstractmethod
    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The score of logits for labels; higher is better."""

    def resampled(self, logits: np.ndarray, labels: np.ndarray, draws: Iterable[np.ndarray]) -> list[float]:
        """The score of each draw of texts, which holds their numbers; a text may be drawn several times."""
        return [self.score(logits[rows], labels[rows]) for rows in draws]

    @abstractmethod
    def answers(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """What a network answers with these logits, one row a text; None where answers cannot be equal.

        The labels only tell which tokens are judged.
        """

    def predictions(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """What a function of one's own compares with the labels, one row a text; see `TaskKind.takes_own_metrics`."""
        found = self.answers(logits, labels)
        assert found is not None
        return found

    def right(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """For each text whether its answer is right, (texts,); for metrics that are the share of these."""
        raise NotImplementedError(f"{self.name} is not a share of right answers")

    @property
    def judges_groups(self) -> bool:
        """Whether the score is the mean of those that groups of texts have."""
        return False

    def each(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The score of each group, (groups,); for metrics that are the mean of these."""
        raise NotImplementedError(f"{self.name} does not judge groups")

    def confidence(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The probability that a network gives the right answer of each text, (texts,); for the same metrics.

        Its mean tells networks apart by fewer texts than the share of right answers does.
        """
        return self.right(logits, labels).astype(np.float64)

    def constant(self, labels: np.ndarray, outputs: int) -> np.ndarray | None:
        """Logits of the best answer that is the same for all texts; None if that scores 0."""
        return None

    @abstractmethod
    def imagined(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Logits of a network that is right in a share of its answers, wrong ones drawn at random."""

    @property
    def is_settled(self) -> bool:
        """Whether it is fixed how outputs become answers; otherwise `settled` does that, on the search set."""
        return True

    def settled(self, logits: np.ndarray, labels: np.ndarray) -> Metric:
        """The metric with everything fixed that the study leaves to be chosen on the search set."""
        return self

    def about(self, outputs: int) -> dict[str, Any]:
        """What `config.json` says of how so many outputs become answers, besides what transformers has a word for."""
        return {}

    def shown(self, labels: np.ndarray) -> list[int]:
        """The rows of a test set with these labels whose answers the report compares; nothing if it compares none."""
        return []

    def by_label(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and how often it is wanted, for whatever the report lists, by its name.

        `names` are those of the outputs. Nothing where such figures are not of interest.
        """
        return {}

    def check_size(
        self, labels: np.ndarray, what: str = "What is judged (search.examples, search.least_tokens)"
    ) -> None:
        """Raise `DataError` if there is too little for the metric; `what` names it in the message."""
        if (found := self.size(labels)) < self.least_size:
            raise DataError(
                f"{what} needs at least {self.least_size} {self.size_word} for {self.name}, but has {found}; give more"
            )


class TaskKind(ABC):
    """One kind of task, a value without state."""

    name: ClassVar[str]
    """The word that stands for it in `task.kind`."""
    metrics: ClassVar[tuple[str, ...]]
    """The metrics that judge it; the first one is proposed."""
    takes_own_metrics: ClassVar[bool] = False
    """Whether a text has a prediction that a function of the user's can compare with its label."""
    examples: ClassVar[tuple[Mapping[str, Sequence[Any]], ...]]
    """Label columns as files hold them, each by its name: what its contract suite is run with."""
    problem_type: ClassVar[Problem]
    """What transformers calls it in `config.json`."""
    has_one_output: ClassVar[bool] = False
    """Whether a network outputs one number, which distillation sees standardised."""
    predicts_numbers: ClassVar[bool] = False
    """Whether labels are numbers on a scale, which fine-tuning sees standardised, and the output is one."""
    of_one_class: ClassVar[tuple[str, ...]] = ()
    """The metrics that may be of a class which the study names."""
    meaning: ClassVar[Meaning] = "classes"
    """What a label column of such a task holds; `nas init` proposes the kind by it."""
    several_columns: ClassVar[bool] = False
    """Whether `task.label` may name several columns, one for each label."""
    has_thresholds: ClassVar[bool] = False
    """Whether a label applies from a probability on, which `task.threshold` sets."""
    label_word: ClassVar[str] = "classes"
    """What its labels are called in the plural."""
    no_exits: ClassVar[str] = ""
    """Why a text cannot leave a network early; empty where it can."""
    network_form: ClassVar[NetworkForm] = NetworkForm()
    """The form of its networks, as far as it does not depend on the teacher."""
    judges_groups: ClassVar[bool] = False
    """Whether rows are judged in groups, such as the passages of a query; see `group_column`."""
    no_student: ClassVar[str] = ""
    """Why a network cannot learn from the stored outputs of another model; empty where it can."""
    learns_from_texts: ClassVar[bool] = False
    """Whether training rows are texts without labels, and search and test set are files of pairs with a score. The
    teacher is then taken as it is."""
    has_static: ClassVar[bool] = True
    """Whether a linear classifier of a text's mean word vector can do the task, to be compared with."""
    needs_pairs: ClassVar[bool] = False
    """Whether a row must be two texts."""
    has_words: ClassVar[bool] = False
    """Whether a text is a list of words, and its label a list with a tag for each of them."""
    text_words: ClassVar[str] = "two columns for pairs"
    """What `task.text` names, for a comment in a first study file."""
    hub_task: ClassVar[str] = "text-classification"
    """What the Hugging Face hub calls such a task."""
    hub_library: ClassVar[str] = "transformers"
    """The library that a hub says an export is loaded with."""
    pipeline: ClassVar[str] = "text-classification"
    """The pipeline of transformers that serves an export; empty if none does."""
    asks_pipeline: ClassVar[str] = ", truncation=True"
    """What that pipeline must be told to give the whole answer to a text of any length, as Python arguments."""

    def check(self, asked: TaskSettings) -> None:
        """Raise `ValueError` with key, rule, value and remedy for settings that do not fit the kind."""
        if asked.metric not in self.metrics:
            self._check_own_metric(asked)
        if asked.positive is not None and asked.metric not in self.of_one_class:
            able = (
                f"only {', '.join(self.of_one_class)} can be" if self.of_one_class else f"no metric of {self.name} is"
            )
            raise ValueError(
                f"positive: {able} of one class, but the metric is {asked.metric!r}; remove positive"
                + (", or set another metric" if self.of_one_class else "")
            )
        if not isinstance(asked.label, str) and not self.several_columns:
            raise ValueError(
                f"label: {self.name} has one column of labels, but got {', '.join(asked.label)}; name one, or set kind "
                "= 'multi_label' if each is a label"
            )
        if asked.threshold is not None and not self.has_thresholds:
            raise ValueError(f"threshold: {self.name} has none, but got {asked.threshold!r}; remove it")
        if asked.query is not None and not self.judges_groups:
            raise ValueError(f"query: {self.name} judges each row alone, but got {asked.query!r}; remove it")
        self._check_judged(asked)
        if self.needs_pairs and len(asked.text) != 2:
            raise ValueError(
                f"text: {self.name} needs the columns of two texts, but got {', '.join(asked.text)}; name both"
            )
        if self.has_words and len(asked.text) != 1:
            raise ValueError(
                f"text: {self.name} has one column of lists of words, but got {', '.join(asked.text)}; name one"
            )

    def _check_own_metric(self, asked: TaskSettings) -> None:
        """Raise `ValueError` unless the metric is a function that the kind can be judged by."""
        able = f"use {', '.join(self.metrics)}" + (", or module:function" if self.takes_own_metrics else "")
        if not is_own(asked.metric):
            raise ValueError(f"metric: {asked.metric!r} does not measure {self.name}; {able}")
        if not self.takes_own_metrics:
            raise ValueError(f"metric: {self.name} cannot be measured by a function such as {asked.metric!r}; {able}")
        self.metric(asked)

    def _check_judged(self, asked: TaskSettings) -> None:
        """Raise `ValueError` unless a study names pairs to be judged by where the kind needs them, and only there."""
        if not self.learns_from_texts:
            for key, value in (("search", asked.search), ("pair", asked.pair)):
                if value:
                    raise ValueError(
                        f"{key}: {self.name} is judged by rows held out of the training rows, but got {value!r}; "
                        "remove it"
                    )
            return
        if len(asked.text) != 1:
            raise ValueError(
                f"text: {self.name} learns from single texts, but got {', '.join(asked.text)}; name one column"
            )
        if not asked.search:
            raise ValueError(f"search: {self.name} needs a file of pairs to judge candidates by; name it")
        if len(asked.pair) != 2:
            raise ValueError(
                f"pair: {self.name} needs the columns of the two texts in the search and the test set, but got "
                f"{', '.join(asked.pair) or 'none'}; name both"
            )

    def group_column(self, asked: TaskSettings) -> str | None:
        """The column whose equal values make a group of rows that are judged, and held out, together; None for none."""
        return (asked.query or asked.text[0]) if self.judges_groups else None

    @abstractmethod
    def metric(self, asked: TaskSettings, names: Sequence[str] = ()) -> Metric:
        """The metric of a task with these outputs; without names, as far as the study says it.

        Raises `DataError` if the names do not fit the settings.
        """

    @abstractmethod
    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        """The labels of both files by `train` and `test`, from the columns that the study names.

        They are numbered as the teacher's classifier `head` numbers them.
        Raises `DataError` for labels that do not fit the kind, and `TeacherError` for a classifier that does not.
        """

    def output_names(self, names: Sequence[str]) -> dict[int, str]:
        """The names of a network's outputs by their numbers, as in `config.json`."""
        return dict(enumerate(names))

    @abstractmethod
    def takes(self, problem_type: str | None, outputs: int | None) -> bool:
        """Whether a fine-tuned teacher with that problem type and number of outputs is one for such a task."""

    def form(self, teacher: str) -> NetworkForm:
        """The form of its networks, given the teacher's folder. Raises `TeacherError` for one that is not known."""
        return self.network_form

    @property
    def needed_teacher(self) -> str:
        """What a fine-tuned teacher must be, for messages about one that is not."""
        return self.problem_type

    def first_bias(self, labels: np.ndarray, outputs: int) -> np.ndarray | None:
        """The bias (outputs,) of a new classifier that is to be trained on these labels; None for the one drawn."""
        return None

    def counts(self, labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
        """The number of rows of each label, by its name; nothing where labels have no names."""
        found = Counter(labels)
        return {name: found[number] for number, name in enumerate(names)}

    @abstractmethod
    def divergence(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        groups: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """How far a network's logits are from the teacher's: a mean over texts, differentiable.

        Logits are (texts, outputs), or (texts, tokens, outputs) where each token has a label; then `mask` (texts,
        tokens) is 1 for the tokens that count, which are all if it is left out. `groups` (texts,) are the numbers of
        their groups, where the kind judges groups.
        """

    def served_as(self, teacher: Mapping[str, Any], fine_tuned: bool) -> dict[str, Any]:
        """What `config.json` of an export says of how its outputs become answers.

        `teacher` holds the settings of the folder that the teacher was loaded from, which may have been `fine_tuned`.
        """
        return {"problem_type": self.problem_type}

    def files_beside(self, served: Mapping[str, Any], max_length: int) -> dict[str, Any]:
        """JSON files that other libraries look for in an export, by their names; `served` is what `served_as` says.

        `max_length` is the number of tokens that texts are cut to, which text-embeddings-inference reads there.
        """
        return {LENGTH_FILE: {"max_seq_length": max_length}}

    def in_figures(self, labels: np.ndarray) -> dict[str, int]:
        """Numbers that describe the labels of a set, by their names; nothing where rows and classes say it all."""
        return {}

    def snippets(self, folder: str, trust: str) -> list[tuple[str, str]]:
        """Titles and Python code of further libraries that load an export.

        `folder` is a string literal; `trust` is the argument that lets the folder's own class be loaded, or empty.
        """
        return []

    @property
    def usage(self) -> str:
        """What a user of an export should know about its answers, in a line; empty where nothing is special."""
        return ""

    def in_words(self, texts: str, labels: Sequence[str]) -> str:
        """What a network does with texts, for its model card. `labels` names its outputs."""
        if len(labels) >= _MANY_LABELS:
            return f"Classifies {texts} by {len(labels)} labels"
        return f"Classifies {texts}" + (f" as {any_of(labels)}" if len(labels) > 1 else "")


def any_of(labels: Sequence[str]) -> str:
    """Labels in words, joined by "or"; of many their number."""
    if len(labels) >= _MANY_LABELS:
        return f"{len(labels)} labels"
    return f"{', '.join(labels[:-1])} or {labels[-1]}"


def problem_of(problem_type: str | None, outputs: int | None) -> str:
    """The problem type as transformers reads a configuration that may not name it."""
    return problem_type or ("regression" if outputs == 1 else "single_label_classification")
