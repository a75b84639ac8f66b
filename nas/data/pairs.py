"""Reads a task that is trained on single texts without labels and evaluated on pairs of texts with scores.

The training, search and test sets are separate files or splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from nas.data.splits import Texts, outside
from nas.data.task import Splits, labels_of, names_of, read_sources, texts_in
from nas.data.words import Text
from nas.errors import DataError
from nas.progress import say
from nas.study import Task
from nas.tasks import GROUP


def read_paired(task: Task, train: str | Sequence[str], search: str, test: str) -> Splits:
    """Read the training texts, and the pairs of the search and test sets. The texts of a pair become consecutive rows.

    `train`, `search` and `test` are absolute paths, or names of splits on the hub. If `train` lists several of them,
    their rows are concatenated. A training text that also occurs in a pair is left out. Raises the same errors as
    `read_splits`. Also raises `DataError` if all pairs of the search set occur in the test set, or vice versa.
    """
    pair_sources = {"search": search, "test": test}
    rows_by_set = {
        name: read_sources(task, source, (*task.pair, *task.label_columns)) for name, source in pair_sources.items()
    }
    columns = {name: texts_in(task, parts, task.pair) for name, parts in rows_by_set.items()}
    check_distinct(columns, pair_sources)
    pairs = {name: [_interleaved(parts)] for name, parts in columns.items()}
    labels = labels_of(task, rows_by_set["search"], rows_by_set["test"], None)
    scores = {"search": _each_twice(labels.values["train"]), "test": _each_twice(labels.values["test"])}
    groups = {name: {GROUP: _each_twice(range(len(values) // 2))} for name, values in scores.items()}
    return with_training_texts(task, train, pair_sources, Splits(pairs, scores, (), more=groups))


def with_training_texts(task: Task, train: str | Sequence[str], sources: Mapping[str, str], sets: Splits) -> Splits:
    """Add the training set to the splits of a task that is trained on texts without labels.

    The training texts are read from `train`. A text that also occurs in the search or test set is left out. `sets`
    contains the search set and the test set, and `sources` names their files or splits. Raises `DataError` if no
    training text is left, or if the search set or the test set is too small for the metric.
    """
    training_rows = read_sources(task, train, task.text)
    texts = texts_in(task, training_rows, task.text)
    kept_rows = outside(texts, [[*sets.texts["search"][0], *sets.texts["test"][0]]])
    if not kept_rows:
        raise DataError(
            f"{names_of(training_rows)}: every text also occurs in a pair of {sources['search']} or {sources['test']}; "
            "give other texts"
        )
    splits = replace(
        sets,
        texts={"train": [[texts[0][row] for row in kept_rows]], **sets.texts},
        in_test=len(texts[0]) - len(kept_rows),
        rows={"train": kept_rows},
    )
    splits.check_sizes(task, sources)
    return splits


def check_distinct(
    columns: Mapping[str, Texts], sources: Mapping[str, str], singular: str = "pair", plural: str = "pairs"
) -> None:
    """Raise `DataError` if all rows of the search set occur in the test set, or vice versa.

    If only some rows of the search set occur in the test set, print a warning. `columns` holds the columns to
    compare, keyed by `search` and `test`. `singular` and `plural` are the nouns for a row and for rows in messages.
    """
    for name, other in (("search", "test"), ("test", "search")):
        total, own_rows = len(columns[name][0]), len(outside(columns[name], columns[other]))
        if not own_rows:
            raise DataError(
                f"{sources[name]}: every {singular} also occurs in {sources[other]}, but the search set and the test "
                f"set must differ; set task.{name} to a source with different {plural}"
            )
        if name == "search" and own_rows < total:
            say(
                f"Warning: {sources[name]}: {total - own_rows:,} of {total:,} {plural} also occur in {sources[other]}, "
                f"so candidates are selected on {plural} that are also used for the final test; remove these {plural} "
                "from one of the files"
            )


def _interleaved(columns: Sequence[Sequence[Text]]) -> list[Text]:
    """Return the texts of all pairs as one list, in which the two texts of each pair are adjacent."""
    return list(chain.from_iterable(zip(*columns, strict=True)))


def _each_twice(values: Sequence[Any]) -> list[Any]:
    return [value for value in values for _ in range(2)]
