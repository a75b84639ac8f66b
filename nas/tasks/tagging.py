"""The `tagging` task kind: each word of a text has a tag, such as the IOB2 tags of named entities.

A network tags every token. A word gets the tag of its first token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import DataError
from nas.form import CLASSIFIERS
from nas.tasks.kind import TaskKind, TaskLabels, TaskSettings, any_of, problem_of
from nas.tasks.labels import LabelColumn, file_by_file, names_in_lists
from nas.tasks.metric import EVALUATED_SET, IGNORED, Metric
from nas.tasks.numbering import Head, notes_on, number_lists

if TYPE_CHECKING:
    from torch import Tensor

_OUTSIDE_TAG = "O"
_PREFIXED = re.compile(r"[A-Za-z][-_].")
"""The start of a tag that marks a part of a span, such as `L-` in BILOU."""
_IOB2 = re.compile(r"O|[BI]-.+", re.DOTALL)
Span = tuple[str, int, int]
"""A span: its type, the index of its first word, and the index of its last word."""


@dataclass(frozen=True)
class TagMetric(Metric):
    """The metric `span_f1` or `accuracy`.

    `span_f1` is the F1 of spans, micro-averaged over their types. `accuracy` is the share of words with correct tags.
    Labels are tag numbers with the shape (texts, tokens). All tokens except the first one of each word have the label
    `IGNORED`. Spans are defined as in seqeval's default mode, which agrees with conlleval: a span begins at a `B-` tag,
    or at an `I-` tag that does not continue a span of its type.
    """

    names: tuple[str, ...] = ()
    """The names of the tags, in the order of their numbers."""

    def check_size(self, labels: np.ndarray, set_name: str = EVALUATED_SET) -> None:
        """Raise `DataError` if a set is too small, or if it has no span, so that every network scores 0."""
        super().check_size(labels, set_name)
        tags = {self.names[number] for number in np.unique(labels[labels != IGNORED])}
        if self.name == "span_f1" and tags <= {_OUTSIDE_TAG}:
            raise DataError(
                f"{set_name} needs texts with spans for {self.label}, but all words of its {len(labels)} texts have "
                f"the tag {_OUTSIDE_TAG}; give texts with spans, such as a split whose tags are public"
            )

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        if self.name == "accuracy":
            is_word = labels != IGNORED
            return float((logits.argmax(axis=-1) == labels)[is_word].mean()) if is_word.any() else 0.0
        from seqeval.metrics import f1_score

        return float(
            f1_score(self._tag_names(labels, labels), self._tag_names(logits.argmax(axis=-1), labels), zero_division=0)
        )

    def bootstrap_scores(self, logits: np.ndarray, labels: np.ndarray, draws: Iterable[np.ndarray]) -> list[float]:
        """Return the score of each bootstrap sample.

        The spans (or words) of each text are counted only once for all samples.
        """
        counts = self._span_counts(logits, labels)
        sums = np.array([counts[rows].sum(axis=0) for rows in draws])
        scores: list[float] = (2.0 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1)).tolist()
        return scores

    def _span_counts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the numbers of correct, predicted and actual spans of each text, with the shape (texts, 3).

        If the metric is `accuracy`, words are counted instead of spans.
        """
        answered = logits.argmax(axis=-1)
        if self.name == "accuracy":
            words = (labels != IGNORED).sum(axis=1)
            return np.stack([((answered == labels) & (labels != IGNORED)).sum(axis=1), words, words], axis=1)
        pairs = zip(self._spans(answered, labels), self._spans(labels, labels), strict=True)
        return np.array(
            [(len(predicted & actual), len(predicted), len(actual)) for predicted, actual in pairs]
        ).reshape(-1, 3)

    def answers(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the predicted tag number at the first token of each word, and `IGNORED` at all other tokens.

        The shape is (texts, tokens).
        """
        tags: np.ndarray = np.where(labels == IGNORED, IGNORED, logits.argmax(axis=-1))
        return tags

    def by_label(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return precision, recall, F1 and count of each type of span, keyed by type.

        If some tags do not follow IOB2, return these numbers for each tag instead, keyed by tag.
        """
        answered = logits.argmax(axis=-1)
        if _first_tag_not_iob2(names) is None:
            from seqeval.metrics import classification_report

            report = classification_report(
                self._tag_names(labels, labels), self._tag_names(answered, labels), output_dict=True, zero_division=0
            )
            return {
                name: {
                    "precision": float(figures["precision"]),
                    "recall": float(figures["recall"]),
                    "f1": float(figures["f1-score"]),
                    "spans": float(figures["support"]),
                }
                for name, figures in report.items()
                if not name.endswith(" avg")
            }
        from sklearn.metrics import precision_recall_fscore_support

        is_word = labels != IGNORED
        columns_of_scores = precision_recall_fscore_support(
            labels[is_word], answered[is_word], labels=range(len(names)), zero_division=0.0
        )
        columns = ("precision", "recall", "f1", "words")
        rows = zip(names, zip(*columns_of_scores, strict=True), strict=True)
        return {name: dict(zip(columns, map(float, figures), strict=True)) for name, figures in rows}

    def constant_answer(self, labels: np.ndarray, outputs: int) -> np.ndarray | None:
        """Return logits that give every word the most frequent tag. Return None if the metric is `span_f1`."""
        if self.name != "accuracy":
            return None
        logits = np.zeros((*labels.shape, outputs), dtype=np.float32)
        logits[..., np.bincount(labels[labels != IGNORED]).argmax()] = 1.0
        return logits

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return simulated logits in which about a `share` of the words or spans is tagged correctly.

        `share` refers to words if the metric is `accuracy`, and to spans if it is `span_f1`. For each missed span, a
        word outside all spans is wrongly tagged as a span.
        """
        answered = np.maximum(labels, 0)
        if self.name == "accuracy":
            shift = np.where(rng.random(labels.shape) < share, 0, rng.integers(1, outputs, labels.shape))
            answered = (answered + shift) % outputs
        else:
            self._replace_spans(answered, labels, share, rng)
        return np.eye(outputs, dtype=np.float32)[answered]

    def _replace_spans(self, answered: np.ndarray, labels: np.ndarray, share: float, rng: np.random.Generator) -> None:
        """Replace all but a `share` of the correct spans in `answered` with wrong spans.

        `answered` holds tag numbers, has the shape (texts, tokens), and is changed in place.
        """
        outside = self.names.index(_OUTSIDE_TAG) if _OUTSIDE_TAG in self.names else 0
        for row, spans in enumerate(self._spans(labels, labels)):
            words = np.flatnonzero(labels[row] != IGNORED)
            outside_words = words[labels[row, words] == outside]
            for _, start, end in sorted(spans):
                if rng.random() < share:
                    continue
                begin_tag = answered[row, words[start]]
                answered[row, words[start : end + 1]] = outside
                if len(outside_words):
                    answered[row, rng.choice(outside_words)] = begin_tag

    def _tag_names(self, numbers: np.ndarray, labels: np.ndarray) -> list[list[str]]:
        """Return the tag names of the words of each text. `numbers` has the shape (texts, tokens)."""
        names = np.asarray(self.names, dtype=object)
        return [names[row[token_labels != IGNORED]].tolist() for row, token_labels in zip(numbers, labels, strict=True)]

    def _spans(self, numbers: np.ndarray, labels: np.ndarray) -> list[set[Span]]:
        """Return the spans of each text. `numbers` holds tag numbers and has the shape (texts, tokens)."""
        from seqeval.metrics.sequence_labeling import get_entities

        return [set(get_entities(tags)) for tags in self._tag_names(numbers, labels)]


class Tagging(TaskKind):
    """The kind of task in which each word of a text has a tag."""

    name = "tagging"
    metrics = ("span_f1", "accuracy")
    problem_type = "single_label_classification"
    meaning = "tags"
    label_word = "tags"
    network_form = CLASSIFIERS["token_classifier"]
    has_words = True
    has_static = False
    text_words = "lists of words"
    hub_task = "token-classification"
    pipeline = "token-classification"
    pipeline_arguments = ', aggregation_strategy="first"'
    why_no_exits = "each word of a text has its own tag, and not all tags become confident at the same layer"
    why_no_student = "another tokenizer may split words into different tokens, so the teacher's outputs would not fit"
    examples = (
        {"tags": [["B-PER", "I-PER", "O"], ["O", "B-LOC"], [], ["O", "O", "B-LOC", "B-PER", "O"], ["B-LOC"], ["O"]]},
        {"tags": [["O", "B-x"], ["B-x", "I-x", "O"]]},
    )

    def metric(self, settings: TaskSettings, names: Sequence[str] = ()) -> TagMetric:
        if settings.metric == "accuracy":
            return TagMetric("accuracy", "accuracy of words", tuple(names))
        if (odd_tag := _first_tag_not_iob2(names)) is not None:
            raise DataError(
                f"task.metric: span_f1 needs the tags O, B-<type> and I-<type> (IOB2), but there is a tag {odd_tag!r}; "
                "use IOB2 tags in the data (as strings or a ClassLabel) or in the teacher's config.json, or set "
                "metric = 'accuracy'"
            )
        return TagMetric("span_f1", "span F1", tuple(names))

    def proposed_metric(self, names: Sequence[str]) -> str:
        """Return `span_f1` for IOB2 tags, and `accuracy` for tags without spans.

        Raises `DataError` for tags that seem to mark spans in another scheme, such as BILOU.
        """
        if (odd_tag := _first_tag_not_iob2(names)) is None:
            return "span_f1"
        if any(_PREFIXED.match(name) for name in names) and _OUTSIDE_TAG in map(str.upper, names):
            raise DataError(
                f"--metric: span_f1 needs the tags O, B-<type> and I-<type> (IOB2), but there is a tag {odd_tag!r}; "
                "convert the tags to IOB2, or give --metric accuracy to count words instead of spans"
            )
        return "accuracy"

    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        (train_column,), (test_column,) = train, test
        columns = {"train": train_column, "test": test_column}
        tags_by_set = {name: _read_tags(column) for name, column in columns.items()}
        class_numbering = number_lists(train_column, test_column, tags_by_set, head, self.name)
        notes = notes_on(class_numbering, train_column.source, head)
        values = {
            name: [[class_numbering.numbers[tag] for tag in tags] for tags in rows]
            for name, rows in tags_by_set.items()
        }
        if _first_tag_not_iob2(class_numbering.names) is None:
            for name, column in columns.items():
                rows = iter(values[name])
                for part in column.parts or (column,):
                    tags = [
                        [class_numbering.names[tag] for tag in text_tags]
                        for text_tags in islice(rows, len(part.values))
                    ]
                    notes += _iob2_warning(part, tags)
        return TaskLabels(values, class_numbering.names, tuple(notes))

    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        return problem_of(problem_type, outputs) == self.problem_type and outputs != 1

    def first_bias(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        """Return the logarithm of each tag's share of the words, as the initial bias of the tag's output.

        The shares differ widely, because most words are outside spans. Zeros would therefore be a poor initial bias.
        """
        counts = np.bincount(labels[labels != IGNORED], minlength=outputs) + 0.5
        log_shares: np.ndarray = np.log(counts / counts.sum())
        return log_shares

    def extra_files(self, served: Mapping[str, Any], max_length: int) -> dict[str, Any]:
        """Return an empty dictionary, because text-embeddings-inference does not support tagging."""
        return {}

    def counts(self, labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
        return super().counts(list(chain.from_iterable(labels)), names)

    def divergence(
        self, student: Tensor, teacher: Tensor, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the Kullback-Leibler divergence of tag probabilities.

        The divergence is first averaged over the tokens of each text, and then over texts.
        """
        from torch.nn import functional

        student, teacher = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
        divergences = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
        weights = divergences.new_ones(divergences.shape) if mask is None else mask.to(divergences.dtype)
        return ((divergences * weights).sum(dim=1) / weights.sum(dim=1)).mean()

    @property
    def usage(self) -> str:
        return (
            "`start` and `end` of a span are character positions in the text. The pipeline and `infer.py` return the "
            "same spans. The tokenizer decides what a word is, and the tag of a word is that of its first token. Words "
            "beyond the maximum length of a text get no tag."
        )

    def summary(self, texts: str, labels: Sequence[str]) -> str:
        types = list(dict.fromkeys(label[2:] for label in labels if label != _OUTSIDE_TAG))
        if _first_tag_not_iob2(labels) is not None:
            return f"Tags {texts} word by word with {any_of(labels)}"
        return f"Tags {texts} word by word to find spans of {types[0] if len(types) == 1 else any_of(types)}"


def _first_tag_not_iob2(names: Iterable[str]) -> str | None:
    """Return the first tag that does not follow IOB2 (`O`, `B-<type>`, `I-<type>`). Return None if all tags do."""
    return next((name for name in names if not _IOB2.fullmatch(name)), None)


@file_by_file
def _read_tags(column: LabelColumn) -> list[list[str]]:
    """Return the names of the tags of each row.

    Raises the same errors as `names_in_lists`. Also raises `DataError` if a list holds `IGNORED`, because then it has
    an item for each token instead of each word.
    """
    remedy = "write a list with a tag for each word, or set a different kind"
    rows = names_in_lists(column, "tagging needs a list of tags in every row", remedy)
    row_of_tokens = next((number for number, tags in enumerate(rows) if str(IGNORED) in tags), None)
    if row_of_tokens is not None:
        raise DataError(
            f"{column.place}: tagging needs a tag for each word, but the list in row {row_of_tokens} (counted from 0) "
            f"holds {IGNORED}, which marks ignored tokens; write one tag per word, as before tokenisation"
        )
    return rows


def _iob2_warning(column: LabelColumn, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a list with a warning if some `I-` tags do not continue a span. Otherwise, the list is empty."""
    violations = [
        (number, previous, tag)
        for number, tags in enumerate(rows)
        for previous, tag in zip([_OUTSIDE_TAG, *tags], tags, strict=False)
        if tag.startswith("I-") and previous[2:] != tag[2:]
    ]
    if not violations:
        return []
    number, previous, tag = violations[0]
    return [
        f"Warning: {column.place}: {len(violations):,} of {sum(map(len, rows)):,} tags break IOB2, the first in row "
        f"{number} (counted from 0), {tag} after {previous}; each of them begins a new span, as in seqeval"
    ]
