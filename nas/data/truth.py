"""The labels with which a metric compares a network's outputs, and the groups of rows that are scored together.

Evaluations, baselines and exports read them from the tokenised splits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow
from datasets import Dataset

from nas.data.files import arrow_column, values_of
from nas.tasks import GROUP, IGNORED, REFERENCE, in_groups

LABELS = "labels"
LABEL_COLUMNS = (LABELS, REFERENCE)
"""The columns that a tokenised split lacks if its texts have no labels."""


def truth_of(split: Dataset) -> np.ndarray:
    """Return the labels with which a metric compares a network's outputs.

    The shape is (rows, ...). If rows are evaluated in groups, return the records of `nas.tasks.in_groups`.
    """
    name = REFERENCE if REFERENCE in split.column_names else LABELS
    vectors = _vectors(split, name)
    labels = as_array(values_of(split, name)) if vectors is None else vectors
    groups = groups_of(split)
    return labels if groups is None else in_groups(labels, groups)


def _vectors(split: Dataset, name: str) -> np.ndarray | None:
    """Return a column of lists of float32 numbers as an array with the shape (rows, numbers).

    Return None for any other column. Unlike `as_array`, this function does not create a Python object for each number,
    because a teacher's outputs may be millions of numbers.
    """
    column = arrow_column(split, name).combine_chunks()
    is_list = pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type)
    if not len(column) or not is_list or not pyarrow.types.is_float32(column.type.value_type):
        return None
    return np.asarray(column.flatten()).reshape(len(column), -1)


def as_array(labels: Sequence[Any]) -> np.ndarray:
    """Return the labels of texts as an array with the shape (texts, ...).

    Lists of token labels are padded with `IGNORED`. Lists of pairs, such as the relevant passages of a query, are not
    padded, because padding could take a lot of memory. The array then holds the lists and has the shape (texts,).
    """
    if any(isinstance(label, list) and label and isinstance(label[0], list) for label in labels):
        lists = np.empty(len(labels), dtype=object)
        for row, label in enumerate(labels):
            lists[row] = label
        return lists
    longest = max((len(label) for label in labels if isinstance(label, list)), default=0)
    padded = [label + [IGNORED] * (longest - len(label)) if isinstance(label, list) else label for label in labels]
    return np.asarray(padded)


def groups_of(split: Dataset) -> np.ndarray | None:
    """Return the number of each row's group, with the shape (rows,), or None if rows are not evaluated in groups."""
    return np.asarray(values_of(split, GROUP)) if GROUP in split.column_names else None


def first_rows(split: Dataset, count: int) -> Dataset:
    """Return the first `count` rows of a split. If rows are evaluated in groups, return the first `count` groups."""
    groups = groups_of(split)
    if groups is None:
        return split.select(range(min(count, len(split))))
    return _rows_of(split, groups, list(dict.fromkeys(groups[groups >= 0].tolist()))[:count])


def whole_groups(split: Dataset, rows: Collection[int] | np.ndarray) -> Dataset:
    """Return the rows of a split that belong to the same group as one of `rows`.

    If rows are not evaluated in groups, return only `rows`.
    """
    groups, chosen = groups_of(split), np.asarray(rows)
    return split.select(chosen) if groups is None else _rows_of(split, groups, groups[chosen])


def drawn_rows(split: Dataset, count: int) -> Dataset:
    """Return about `count` rows of a split, drawn at random with a fixed seed.

    If rows are evaluated in groups, whole groups are drawn until they have at least `count` rows. Rows that belong to
    every group are also returned, but are not counted.
    """
    groups = groups_of(split)
    if groups is None:
        return split.shuffle(seed=0, keep_in_memory=True).select(range(count))
    names, sizes = np.unique(groups[groups >= 0], return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    needed = int(np.searchsorted(sizes[order].cumsum(), count)) + 1
    return _rows_of(split, groups, names[order[:needed]])


def _rows_of(split: Dataset, groups: np.ndarray, chosen: Sequence[int] | np.ndarray) -> Dataset:
    """Return the rows of the chosen groups and the rows that belong to every group; see `nas.tasks.GROUP`."""
    return split.select(np.flatnonzero(np.isin(groups, chosen) | (groups < 0)))
