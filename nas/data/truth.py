"""The reference values that a network's outputs are compared with, and the groups of rows that are scored together.

Evaluations, baselines and exports read them from the tokenised splits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
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
    names = split.column_names
    labels = as_array(values_of(split, REFERENCE if REFERENCE in names else LABELS))
    groups = groups_of(split)
    return labels if groups is None else in_groups(labels, groups)


def as_array(labels: Sequence[Any]) -> np.ndarray:
    """Return the labels of texts as an array, (texts, ...); lists of token labels are padded with `IGNORED`."""
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
    first = list(dict.fromkeys(groups.tolist()))[:count]
    return split.select(np.flatnonzero(np.isin(groups, first)))


def whole_groups(split: Dataset, rows: Collection[int] | np.ndarray) -> Dataset:
    """Return the rows of a split that share a group with one of `rows`, or just `rows` if the split has no groups."""
    groups, chosen = groups_of(split), np.asarray(rows)
    return split.select(chosen if groups is None else np.flatnonzero(np.isin(groups, groups[chosen])))


def drawn_rows(split: Dataset, count: int) -> Dataset:
    """Return about `count` rows of a split, drawn at random with a fixed seed.

    If rows are evaluated in groups, whole groups are drawn until they have at least `count` rows.
    """
    groups = groups_of(split)
    if groups is None:
        return split.shuffle(seed=0, keep_in_memory=True).select(range(count))
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    needed = int(np.searchsorted(sizes[order].cumsum(), count)) + 1
    return split.select(np.flatnonzero(np.isin(groups, names[order[:needed]])))
