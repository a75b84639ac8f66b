"""The columns of a data set, and the decisions about which of them contain texts and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from datasets import Dataset

from nas.data import read_rows
from nas.errors import DataError
from nas.files import given_path
from nas.proposal import detection, labels, queries
from nas.proposal.column import Column
from nas.proposal.decision import Clear, Unclear
from nas.proposal.tagged import tagged_columns
from nas.tasks import REGISTRY, Evaluation, task_kind

_SHOWN_LABELS = 5
"""The largest number of label names that a summary lists."""
_LEAST_WORDS = 4
"""A column name with at least this many words may be a text.

If a file lacks its header line, the values of its first row are read as column names.
"""


@dataclass(frozen=True)
class Columns:
    """The columns of the data files, and the decisions about which of them contain texts and labels."""

    data: Dataset
    """The training data."""
    by_name: Mapping[str, Column]
    """The columns that occur in both the training data and the test data, keyed by name."""
    text: Clear[tuple[str, ...]] | Unclear
    label: Clear[str] | Unclear
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each column of tags, the names of the columns of words to which the tags may belong."""

    @classmethod
    def of(cls, rows: Dataset, test: Dataset) -> Columns:
        """Find the columns that occur in both data sets, and decide which of them contain texts and labels."""
        names = [name for name in rows.column_names if name in test.column_names]
        tagged = tagged_columns(rows, names)
        by_name = {name: tagged[name][0] if name in tagged else Column.of(rows, name) for name in names}
        text = detection.texts(list(by_name.values()))
        label = detection.label(
            list(by_name.values()), text.value if isinstance(text, Clear) else (), partial(_correspond, rows)
        )
        words = {name: word_columns for name, (_, word_columns) in tagged.items()}
        # Lists of words that never repeat a word could also be lists of labels.
        if isinstance(label, Unclear) and words and set(label.candidates) <= {*chain.from_iterable(words.values())}:
            text, label = _tagging_columns(words)
        absent = [name for name in rows.column_names if name not in names]
        if isinstance(label, Unclear) and absent and not label.candidates:
            label = Unclear(f"{label.why} in both files; the test data has no {', '.join(map(repr, absent))}")
        return cls(rows, by_name, text, label, words)

    @property
    def rows(self) -> int:
        """The number of rows of the training data."""
        return len(self.data)

    def text_for(self, label: Sequence[str]) -> Clear[tuple[str, ...]] | Unclear:
        """Return the text columns to use with the label columns `label`."""
        return _word_column(self.words[label[0]]) if label and label[0] in self.words else self.text

    def label_for(self, text: Sequence[str]) -> Clear[str] | Unclear:
        """Return the label column to use with the text columns `text`."""
        matching = {name: words for name, words in self.words.items() if set(text) & set(words)}
        if matching:
            return _tagging_columns(matching)[1]
        if isinstance(self.text, Unclear) and text:
            return detection.label(list(self.by_name.values()), text, partial(_correspond, self.data))
        return self.label

    def column(self, name: str) -> Column:
        """Return the column called `name`. Raises `DataError` if the training or the test data lacks this column."""
        if name not in self.by_name:
            raise DataError(f"no column {name!r} occurs in both data files; use one of {', '.join(self.by_name)}")
        return self.by_name[name]

    def check_header(self, text: Sequence[str], label: str) -> None:
        """Raise `DataError` if the names of the columns seem to be the values of a row."""
        if label.strip() in self.column(label).counts and any(len(name.split()) >= _LEAST_WORDS for name in text):
            raise DataError(
                f"--label {label}: the first line of the training file must name the columns, but seems to be a row "
                f"with the text {text[0]!r} and the label {label!r}; add a header line to both files"
            )

    def query(self, text: Sequence[str]) -> str | None:
        """Return the column that identifies each row's query. None if the texts are not queries with passages.

        The result is the column with the texts of the queries or, if a column with a name such as `query_id` identifies
        the same queries, that column.
        """
        if len(text) != 2 or not set(text) <= self.by_name.keys():
            return None
        distinct = len(self.data.unique(text[0]))
        if not queries.has_queries(self.by_name[text[0]], self.rows, distinct):
            return None
        query_ids = [name for name, column in self.by_name.items() if name not in text and queries.is_query_id(column)]
        return next((name for name in query_ids if _correspond(self.data, name, text[0])), text[0])

    def check_words(self, text: Sequence[str], tags: str) -> None:
        """Raise `DataError` unless `text` is a single column of lists with one word per tag of the column `tags`."""
        if text and tuple(text) not in [(words,) for words in self.words.get(tags, ())]:
            possible = " or ".join(map(repr, self.words.get(tags, ()))) or "a file that has such a column"
            raise DataError(
                f"--text {' and '.join(text)}: must be a column of lists with a word for each tag of {tags!r}; use "
                f"{possible}"
            )

    def kind(self, label: str, outputs: int | None, query: str | None = None) -> Clear[str] | Unclear:
        """Return the kind of task for a label column.

        `outputs` is the number of outputs of a fine-tuned teacher, or None without such a teacher. `query` is the
        column that identifies queries, or None if rows cannot be passages to rank. Raises `DataError` if the column
        cannot contain labels.
        """
        if why := labels.why_unfit(self.column(label)):
            usable = [name for name, column in self.by_name.items() if labels.why_unfit(column) is None]
            remedy = f"use one of {', '.join(usable)}" if usable else "add a column of labels"
            raise DataError(f"--label {label}: the column {why}; {remedy}")
        meaning = labels.meaning(self.column(label), outputs)
        if query and outputs in (None, 1) and labels.can_be_grade(self.column(label)):
            if outputs == 1:
                return Clear(_kinds_of("grades")[0])
            meanings = (meaning.value,) if isinstance(meaning, Clear) else meaning.candidates
            meaning = Unclear(
                f"{label} may hold the relevance of several passages for each {query}.", ("grades", *meanings)
            )
        if isinstance(meaning, Unclear):
            return Unclear(meaning.why, tuple(chain.from_iterable(map(_kinds_of, meaning.candidates))))
        return Clear(_kinds_of(meaning.value)[0])  # if several kinds use such labels, the first one registered

    def outputs(self, label: Sequence[str], kind: str) -> int:
        """Return the number of outputs that a classifier needs for these label columns and this kind of task."""
        if task_kind(kind).has_one_output:
            return 1
        label_column = self.column(label[0])
        return len(label) if len(label) > 1 else label_column.classes or len(label_column.counts)

    def evaluation(self, pair: Sequence[str], label: Sequence[str]) -> Evaluation:
        """Return which kind of data the search and test sets contain: `texts`, `pairs` or `retrieval`.

        The method is only for tasks whose training data has no labels. `pair` and `label` are empty if the search and
        test sets contain only texts.
        """
        if not pair:
            return "texts"
        query, passage, grade = map(self.column, (*pair, label[0]))
        return "retrieval" if queries.are_graded_passages(query, passage, grade) else "pairs"

    def described(
        self, text: Sequence[str], label: Sequence[str], kind: str, metric: str, query: str | None = None
    ) -> str:
        """Return one line for the user that names the chosen columns and summarises the labels."""
        values: Sequence[str] = label if len(label) > 1 else sorted(self.column(label[0]).counts) if label else ()
        if not label:
            summary = f"{kind}, no labels"
        elif task_kind(kind).meaning == "scale":
            numbers = self.column(label[0]).numbers or [math.nan]
            summary = f"{kind}, numbers from {numbers[0]:g} to {numbers[-1]:g}"
        else:
            names = [*values[:_SHOWN_LABELS], *["..."][: max(0, len(values) - _SHOWN_LABELS)]]
            summary = f"{len(values)} {task_kind(kind).label_word}: {', '.join(names)}"
        # A row without a query only adds its passage to the corpus.
        is_retrieval = task_kind(kind).evaluated_on(metric) == "retrieval"
        needed_columns = text[1:] if is_retrieval else (*text, *label)
        missing = sum(self.column(name).missing for name in needed_columns)
        notes = f"; missing values: {missing:,}; fill them, or remove these rows" if missing else ""
        notes = (f"; query: {query}" if query else "") + notes
        label_names = ", ".join(label) if label else "none"
        return f"text: {', '.join(text)}; label: {label_names} ({summary}){notes}"


def _tagging_columns(
    words: Mapping[str, tuple[str, ...]],
) -> tuple[Clear[tuple[str, ...]] | Unclear, Clear[str] | Unclear]:
    """Return the column of words and the column of tags of a tagging task.

    `words` maps the name of each column of tags to the columns of words to which the tags may belong.
    """
    all_words = tuple(dict.fromkeys(chain.from_iterable(words.values())))
    tags = tuple(words)
    return _word_column(all_words), Clear(tags[0]) if len(tags) == 1 else Unclear(
        "several columns hold tags of words", tags
    )


def _word_column(words: tuple[str, ...]) -> Clear[tuple[str, ...]] | Unclear:
    return Clear(words) if len(words) == 1 else Unclear("several columns hold lists of words", words)


def text_of(train: str) -> Clear[str] | Unclear:
    """Return the name of the text column of a file without labels, or `Unclear` if the user has to choose.

    Raises `DataError` if the file cannot be read.
    """
    rows = read_rows(str(given_path(train)))
    text = detection.texts([Column.of(rows, name) for name in rows.column_names])
    if isinstance(text, Clear) and len(text.value) > 1:
        return Unclear("several columns hold texts", text.value)
    return Clear(text.value[0]) if isinstance(text, Clear) else text


def _kinds_of(meaning: str) -> tuple[str, ...]:
    """Return the kinds of task that are trained on labels with this meaning; see `nas.tasks.Meaning`."""
    return tuple(name for name, kind in REGISTRY.items() if kind.meaning == meaning and not kind.learns_from_texts)


def _correspond(rows: Dataset, one: str, other: str) -> bool:
    """Whether the values of two columns correspond one to one."""
    table = rows.select_columns([one, other]).with_format("arrow")[:]
    return len({table.group_by(names).aggregate([]).num_rows for names in ([one], [other], [one, other])}) == 1
