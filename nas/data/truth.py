"""The reference values that a network's outputs are compared with, and the groups of rows that are scored together.

Evaluations, baselines and exports read them from the tokenised splits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow
from datasets import Dataset

from nas.data.files import values_of
from nas.tasks import GROUP, IGNORED, REFERENCE, in_groups

LABELS = "labels"
LABEL_COLUMNS = (LABELS, REFERENCE)
"""Columns of a tokenised split that do not exist for texts without labels."""


def truth_of(split: Dataset) -> np.ndarray:
    """Return the reference values that a metric compares outputs with, one row per text.

    They are labels, (rows, ...), or records of `nas.tasks.in_groups` if rows are evaluated in groups.
    """
    name = REFERENCE if REFERENCE in split.column_names else LABELS
    vectors = _vectors(split, name)
    labels = as_array(values_of(split, name)) if vectors is None else vectors
    groups = groups_of(split)
    return labels if groups is None else in_groups(labels, groups)


def _vectors(split: Dataset, name: str) -> np.ndarray | None:
    """Return a column of lists of float32 numbers as an array, (rows, numbers); None for any other column.

    Unlike `as_array`, this does not create a Python object for each number. A teacher's outputs may be millions.
    """
    column = split.select_columns([name]).with_format("arrow")[:].column(0).combine_chunks()
    is_list = pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type)
    if not len(column) or not is_list or not pyarrow.types.is_float32(column.type.value_type):
        return None
    return np.asarray(column.flatten()).reshape(len(column), -1)


def as_array(labels: Sequence[Any]) -> np.ndarray:
    """Return the labels of texts as an array, (texts, ...).

    Lists of token labels are padded with `IGNORED`. If labels are lists of pairs, such as the judgements of a query,
    the array holds these lists themselves, (texts,), because padding them could take a lot of memory.
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
    """Return the number of each row's group, (rows,); None if rows are evaluated separately."""
    return np.asarray(values_of(split, GROUP)) if GROUP in split.column_names else None


def first_rows(split: Dataset, count: int) -> Dataset:
    """Return the first `count` rows of a split, or its first `count` groups if rows are evaluated in groups."""
    groups = groups_of(split)
    if groups is None:
        return split.select(range(min(count, len(split))))
    return _rows_of(split, groups, list(dict.fromkeys(groups[groups >= 0].tolist()))[:count])


def whole_groups(split: Dataset, rows: Collection[int] | np.ndarray) -> Dataset:
    """Return the rows of a split that share a group with one of `rows`, or just `rows` if the split has no groups."""
    groups, chosen = groups_of(split), np.asarray(rows)
    return split.select(chosen) if groups is None else _rows_of(split, groups, groups[chosen])


def drawn_rows(split: Dataset, count: int) -> Dataset:
    """Return about `count` rows of a split, drawn at random with a fixed seed.

    If rows are evaluated in groups, whole groups are drawn until they have at least `count` rows, not counting the rows
    that belong to every group.
    """
    groups = groups_of(split)
    if groups is None:
        return split.shuffle(seed=0, keep_in_memory=True).select(range(count))
    names, sizes = np.unique(groups[groups >= 0], return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    needed = int(np.searchsorted(sizes[order].cumsum(), count)) + 1
    return _rows_of(split, groups, names[order[:needed]])


def _rows_of(split: Dataset, groups: np.ndarray, chosen: Sequence[int] | np.ndarray) -> Dataset:
    """Return the rows of the chosen groups, and the rows that belong to every group; see `nas.tasks.GROUP`."""
    return split.select(np.flatnonzero(np.isin(groups, chosen) | (groups < 0)))
