"""The splits of a task, from rows to token ids.

`read_splits` reads the rows and holds out the search set. `Splits.encode` tokenises the splits, and `TaskData` stores
the result, which training, search and export load.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import ClassLabel, Dataset, LargeList, List

from nas.data.files import read_rows, read_table, values_of, write_table
from nas.data.splits import divided, normal, numbered
from nas.data.truth import LABELS, as_array
from nas.data.words import Text, are_words, joined, on_first_tokens, tokens_of
from nas.errors import DataError, counted, shown
from nas.files import read_json, write_json
from nas.progress import say
from nas.study import Task
from nas.tasks import GROUP, REFERENCE, Head, LabelColumn, TaskLabels, in_groups, task_kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "search", "test")
_LABELS_FILE = "labels.json"


class _StoredSplits(Mapping[str, Dataset]):
    """The splits stored in a folder. A split is read from its file when it is first used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._splits: dict[str, Dataset] = {}

    def __getitem__(self, name: str) -> Dataset:
        if name not in self._splits:
            self._splits[name] = read_table(self._folder / f"{name}.parquet")
        return self._splits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)


@dataclass(frozen=True)
class TaskData:
    """Tokenised splits with the columns `input_ids`, `labels` and `length`.

    If the model has token types, the splits also have the column `token_type_ids`. For some kinds of task, they also
    have the columns `GROUP` and `REFERENCE` of `nas.tasks`. If words are tagged, each token has a label, and the label
    is `IGNORED` if no word begins at the token.
    """

    splits: Mapping[str, Dataset]
    label_names: tuple[str, ...]
    """The names of a network's outputs, in the order of the outputs. Empty if the only output is a number."""

    @property
    def train(self) -> Dataset:
        """The split on which networks are trained."""
        return self.splits["train"]

    @property
    def search(self) -> Dataset:
        """The split on which candidates are evaluated."""
        return self.splits["search"]

    @property
    def test(self) -> Dataset:
        """The split on which the final metrics are measured."""
        return self.splits["test"]

    @property
    def num_labels(self) -> int:
        """The number of a network's outputs."""
        return len(self.label_names) or 1

    def save(self, folder: Path) -> None:
        """Write the splits to Parquet files in a folder.

        `labels.json` is written last, so that its presence marks the folder as complete.
        """
        for name, split in self.splits.items():
            write_table(split, folder / f"{name}.parquet")
        sizes = {name: len(split) for name, split in self.splits.items()}
        write_json(folder / _LABELS_FILE, {"label_names": list(self.label_names), "examples": sizes})

    @classmethod
    def load(cls, folder: Path) -> TaskData:
        """Return the data that `save` has written. A process reads each split only once, when it is first used."""
        path = folder / _LABELS_FILE
        status = path.stat() if path.exists() else None
        return _load_cached(folder, status and (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=2)
def _load_cached(folder: Path, stamp: tuple[int, ...] | None) -> TaskData:
    """Load the data in a folder, or return the data from an earlier call with the same arguments.

    `stamp` changes if the folder is rewritten, so that the data is then loaded again.
    """
    return TaskData(_StoredSplits(folder), tuple(read_json(folder / _LABELS_FILE, DataError)["label_names"]))


@dataclass(frozen=True)
class Splits:
    """The splits of a task before tokenisation."""

    texts: Mapping[str, Sequence[Sequence[Text]]]
    """The columns of texts of each split, keyed by split."""
    labels: Mapping[str, Sequence[Any]]
    """The labels of each split's rows, in the format of the kind of task. `train` is absent if it has no labels."""
    label_names: tuple[str, ...]
    in_test: int = 0
    """The number of training rows that were removed because their text or query occurs in the test set."""
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """The row numbers, in the training data, of the rows of `train` and `search`."""
    more: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    """Additional columns, keyed first by split and then by column. These are `GROUP` and `REFERENCE`, if the kind of
    task has them."""

    def truth(self, name: str) -> np.ndarray:
        """Return the labels with which the metric compares a network's outputs on a split.

        The result has the format of `nas.data.truth_of`.
        """
        further_columns = self.more.get(name, {})
        labels = as_array(further_columns.get(REFERENCE, self.labels[name]))
        return in_groups(labels, np.asarray(further_columns[GROUP])) if GROUP in further_columns else labels

    def check_sizes(self, task: Task, sources: Mapping[str, str]) -> None:
        """Raise `DataError` if the search or test set is too small for the metric.

        `sources` holds the name of each set's file or split for messages, keyed by `search` and `test`.
        """
        metric = task_kind(task.kind).metric(task, self.label_names)
        for name, source in sources.items():
            metric.check_size(self.truth(name), f"{source}: the {name} set")

    def select(self, name: str, rows: Sequence[int]) -> Splits:
        """Return a copy in which the split `name` contains only the rows with the row numbers `rows`."""
        texts = {**self.texts, name: _rows_at(self.texts[name], rows)}
        labels = {key: _values_at(values, rows) if key == name else values for key, values in self.labels.items()}
        further_columns = {key: _values_at(values, rows) for key, values in self.more.get(name, {}).items()}
        return replace(self, texts=texts, labels=labels, more={**self.more, name: further_columns})

    def with_labels(self, labels: Mapping[str, Sequence[Any]]) -> Splits:
        """Return a copy in which the labels of each split in `labels` are replaced."""
        return replace(self, labels={**self.labels, **labels})

    def encode(self, tokenizer: PreTrainedTokenizerBase, max_length: int, token_types: bool = True) -> TaskData:
        """Tokenise all splits. `token_types` must be true if the model has token types."""
        return TaskData(
            {name: self._encode(name, tokenizer, max_length, token_types) for name in SPLITS}, self.label_names
        )

    def _encode(self, name: str, tokenizer: PreTrainedTokenizerBase, max_length: int, token_types: bool) -> Dataset:
        labels = {LABELS: list(self.labels[name])} if name in self.labels else {}
        labels |= {key: list(rows) for key, rows in self.more.get(name, {}).items()}
        return tokenised(self.texts[name], tokenizer, max_length, token_types, labels)


def tokenised(
    texts: Sequence[Sequence[Text]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    token_types: bool,
    labels: Mapping[str, list[Any]] | None = None,
) -> Dataset:
    """Tokenise columns of texts, and return the tokens as a data set.

    The data set has the columns `input_ids`, `length`, and those in `labels`. If the model has token types, it also has
    the column `token_type_ids`. If texts are lists of words, the labels of words are converted to labels of tokens.
    """
    tokenizer_settings = {"truncation": True, "max_length": max_length, "return_token_type_ids": token_types}
    tokens = tokens_of(texts, tokenizer, **tokenizer_settings)
    if labels and are_words(texts):
        labels = {name: on_first_tokens(tokens, rows) for name, rows in labels.items()}
    lengths = [len(ids) for ids in tokens["input_ids"]]
    return Dataset.from_dict({**tokens, **(labels or {}), "length": lengths})


def prepare(
    task: Task,
    train: str | Sequence[str],
    test: str,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    token_types: bool = True,
) -> TaskData:
    """Read, split and tokenise the data of a task; see `read_splits` and `Splits.encode`."""
    return read_splits(task, train, test, seed).encode(tokenizer, task.max_length, token_types)


@dataclass(frozen=True)
class RowSource:
    """The rows of one file, or of one split on the hub."""

    name: str
    rows: Dataset


def names_of(sources: Sequence[RowSource]) -> str:
    """Return the names of files or splits, separated by commas, for use in messages."""
    return ", ".join(source.name for source in sources)


def read_splits(task: Task, train: str | Sequence[str], test: str, seed: int, head: Head | None = None) -> Splits:
    """Read the rows of a task and hold out part of the training rows as the search set.

    `train` and `test` are absolute paths, or names of splits on the hub. If `train` lists several of them, their rows
    are concatenated. Labels get the numbers that they have in `head`, the teacher's classifier. Raises `DataError` if a
    file or column is missing, if a split is empty, or if texts or labels do not fit the task. Raises `TeacherError` if
    the classifier does not fit the labels.
    """
    column_names = (*task.unlabelled_columns, *task.label_columns)
    sources = {"train": read_sources(task, train, column_names), "test": read_sources(task, test, column_names)}
    texts = {name: texts_in(task, parts_of_set, task.text) for name, parts_of_set in sources.items()}
    task_labels = labels_of(task, sources["train"], sources["test"], head)
    if task_kind(task.kind).has_words:
        for name, parts_of_set in sources.items():
            _check_tags(task, parts_of_set, texts[name][0], task_labels.values[name])
    groups = {
        name: numbered(chain.from_iterable(groups_in(task, source) for source in parts_of_set))
        for name, parts_of_set in sources.items()
    }
    source_names = {name: names_of(parts_of_set) for name, parts_of_set in sources.items()}
    row_numbers = divided(task, texts, groups, source_names, seed)
    further_columns = {
        **({GROUP: groups} if task.group_column else {}),
        **({REFERENCE: task_labels.judged} if task_labels.judged else {}),
    }
    divided_columns = {key: _divide(values, row_numbers) for key, values in further_columns.items()}
    splits = Splits(
        {name: _rows_at(texts["train"], rows) for name, rows in row_numbers.items()} | {"test": texts["test"]},
        _divide(task_labels.values, row_numbers),
        task_labels.names,
        in_test=len(texts["train"][0]) - sum(map(len, row_numbers.values())),
        rows=row_numbers,
        more={name: {key: columns_by_set[name] for key, columns_by_set in divided_columns.items()} for name in SPLITS},
    )
    splits.check_sizes(task, {"search": source_names["train"], "test": source_names["test"]})
    return splits


def _divide(values: Mapping[str, Sequence[Any]], rows: Mapping[str, Sequence[int]]) -> dict[str, Sequence[Any]]:
    """Divide the values of the training and test rows into those of the training, search and test sets."""
    return {name: [values["train"][row] for row in row_numbers] for name, row_numbers in rows.items()} | {
        "test": values["test"]
    }


def groups_in(task: Task, source: RowSource) -> list[Hashable]:
    """Return the name of each row's group. The list is empty if rows are not evaluated in groups.

    Raises `DataError` if a row does not name a group.
    """
    column = task.group_column
    if column is None:
        return []
    values = values_of(source.rows, column)
    is_text = column in task.text  # an empty text is a query like any other
    rows_without_group = [row for row, value in enumerate(values) if not _can_name_group(value, is_text)]
    if rows_without_group:
        raise DataError(
            f"{source.name}: column {column!r} must name the query of each row, but row {rows_without_group[0]} "
            f"holds {shown(values[rows_without_group[0]])} (rows are counted from 0; affected rows: "
            f"{len(rows_without_group)} of {len(values)}); fill or drop these rows, or name another column in "
            "task.query"
        )
    return [_group_name(value, is_text) if isinstance(value, str) else value for value in values]


def _group_name(value: str, is_text: bool) -> str:
    """Return the name of a group. Case matters in an identifier, but not in a text."""
    return normal((value,)) if is_text else value.strip()


def _can_name_group(value: Any, may_be_empty: bool) -> bool:
    if isinstance(value, str):
        return may_be_empty or value.strip() != ""
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _check_tags(task: Task, sources: Sequence[RowSource], texts: Sequence[Text], tags: Sequence[Sequence[int]]) -> None:
    """Raise `DataError` unless every row has exactly one tag per word."""
    pairs = zip(texts, tags, strict=True)
    for source in sources:
        for row, (words, row_tags) in enumerate(islice(pairs, len(source.rows))):
            if len(words) != len(row_tags):
                raise DataError(
                    f"{source.name}: row {row} (counted from 0) must have one tag per word, but column "
                    f"{task.text[0]!r} has {counted(len(words), 'word')} and column {task.label_columns[0]!r} has "
                    f"{counted(len(row_tags), 'tag')}; correct or drop such rows"
                )


def _values_at(values: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    return [values[row] for row in rows]


def _rows_at(columns: Sequence[Sequence[Text]], numbers: Sequence[int]) -> list[list[Text]]:
    return [_values_at(column, numbers) for column in columns]


def read_source(task: Task, name: str, columns: Sequence[str], is_file: bool = False) -> RowSource:
    """Read the columns `columns` of a data file, or of a split of the task's hub data set.

    `name` is the path of a file if `is_file` is true or if the task has no hub data set. Otherwise, it is the name of a
    split. Raises `DataError` if there are no rows, and the same errors as `read_rows`.
    """
    rows = read_rows(name, None if is_file else task.hub, task.config, tuple(dict.fromkeys(columns)), task.revision)
    if not len(rows):
        raise DataError(f"{name}: has no rows; give a file or split with rows")
    return RowSource(name, rows)


def read_sources(task: Task, names: str | Sequence[str], columns: Sequence[str]) -> list[RowSource]:
    """Read the columns `columns` of each file or split in `names`. Raises the same errors as `read_source`."""
    return [read_source(task, name, columns) for name in ([names] if isinstance(names, str) else names)]


def texts_in(task: Task, sources: Sequence[RowSource], columns: Sequence[str]) -> list[list[Text]]:
    """Return the columns `columns` of texts. Each column holds the rows of all `sources`, one source after the other.

    Raises the same errors as `texts_of`.
    """
    columns_by_source = [texts_of(task, source, columns) for source in sources]
    return [list(chain.from_iterable(parts)) for parts in zip(*columns_by_source, strict=True)]


def texts_of(task: Task, source: RowSource, columns: Sequence[str]) -> list[list[Text]]:
    """Return the columns `columns`, which hold texts or, for some kinds of task, lists of words.

    Raises `DataError` if a value has a different type. Prints the number of empty texts.
    """
    is_valid, expected = (_is_words, "lists of words") if task_kind(task.kind).has_words else (_is_text, "texts")
    remedy = f"write {expected} into the column (in Parquet or JSONL), or name another column"
    text_columns = []
    for column in columns:
        values = values_of(source.rows, column)
        bad_rows = [number for number, value in enumerate(values) if not is_valid(value)]
        if bad_rows:
            raise DataError(
                f"{source.name}: column {column!r} must hold {expected}, but row {bad_rows[0]} holds "
                f"{shown(values[bad_rows[0]])} (rows are counted from 0; affected rows: {len(bad_rows)} of "
                f"{len(values)}); {remedy if len(bad_rows) == len(values) else 'fill or drop these rows'}"
            )
        empty_rows = [number for number, value in enumerate(values) if not joined(value).strip()]
        if empty_rows:
            say(
                f"{source.name}: column {column!r}: {len(empty_rows)} of {len(values):,} texts are empty, the first in "
                f"row {empty_rows[0]} (counted from 0); the empty texts are kept"
            )
        text_columns.append(values)
    return text_columns


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def labels_of(task: Task, train: Sequence[RowSource], test: Sequence[RowSource], head: Head | None) -> TaskLabels:
    """Return the labels of the training and test rows in the format of the kind of task.

    Also print `TaskLabels.notes`, for example about how labels are numbered.
    """
    kind = task_kind(task.kind)
    task_labels = kind.read(label_columns_of(task, train), label_columns_of(task, test), head)
    for note in task_labels.notes:
        say(note)
    kind.metric(task, task_labels.names)  # raises an error if the task's positive class is not among the names
    return task_labels


def label_columns_of(task: Task, sources: Sequence[RowSource]) -> list[LabelColumn]:
    """Return the task's label columns. Each column holds the rows of all `sources`, one source after the other."""
    return [LabelColumn.of([_label_column(source, name) for source in sources]) for name in task.label_columns]


def _label_column(source: RowSource, name: str) -> LabelColumn:
    feature = source.rows.features[name]
    feature = feature.feature if isinstance(feature, List | LargeList) else feature
    classes = tuple(feature.names) if isinstance(feature, ClassLabel) else None
    return LabelColumn(source.name, name, values_of(source.rows, name), classes)
