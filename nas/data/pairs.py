"""Splits of a task that learns from texts alone and is judged by pairs of texts with a score, in files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from nas.data.splits import outside
from nas.data.task import Splits, labels_of, read_columns, texts_of
from nas.data.words import Text
from nas.errors import DataError
from nas.study import Task
from nas.tasks import GROUP, task_kind


def read_paired(task: Task, train: str, search: str, test: str) -> Splits:
    """Read the training texts, and the pairs of search and test set: each pair is two rows behind each other.

    `train`, `search` and `test` are resolved paths, or split names of the hub. Training texts that stand in a pair are
    left out. Raises `DataError` as `read_splits` does.
    """
    judged = {"search": search, "test": test}
    columns = (*task.pair, *task.label_columns)
    rows = {name: read_columns(task, source, columns) for name, source in judged.items()}
    pairs = {name: _interleaved(texts_of(task, source, task.pair, rows[name])) for name, source in judged.items()}
    read = labels_of(task, (search, rows["search"]), (test, rows["test"]), None)
    scores = {"search": _twice(read.values["train"]), "test": _twice(read.values["test"])}
    texts = texts_of(task, train, task.text, read_columns(task, train, task.text))
    kept = outside(texts, [[*pairs["search"], *pairs["test"]]])
    if not kept:
        raise DataError(f"{train}: every text stands in a pair of {search} or {test}; give other texts")
    found = Splits(
        {"train": [[texts[0][row] for row in kept]], **{name: [column] for name, column in pairs.items()}},
        scores,
        read.names,
        in_test=len(texts[0]) - len(kept),
        rows={"train": kept},
        more={name: {GROUP: _twice(range(len(values) // 2))} for name, values in scores.items()},
    )
    for name, source in judged.items():
        task_kind(task.kind).metric(task).check_size(found.truth(name), f"{source}: the {name} set")
    return found


def _interleaved(columns: Sequence[Sequence[Text]]) -> list[Text]:
    """The texts of all pairs, both of a pair behind each other."""
    return list(chain.from_iterable(zip(*columns, strict=True)))


def _twice(values: Sequence[Any]) -> list[Any]:
    return [value for value in values for _ in range(2)]
