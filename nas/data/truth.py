"""What a split is judged by, and the rows that are judged together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from nas.data.files import values_of
from nas.tasks import GROUP, IGNORED, JUDGED, in_groups

LABELS = "labels"
NOT_TEXT = (LABELS, JUDGED)
"""Columns of a tokenised split that texts without labels do not have."""


def truth_of(split: Dataset) -> np.ndarray:
    """What a metric compares outputs with, one row a text: labels (rows, ...), or records of `nas.tasks.in_groups`."""
    names = split.column_names
    labels = as_array(values_of(split, JUDGED if JUDGED in names else LABELS))
    groups = groups_of(split)
    return labels if groups is None else in_groups(labels, groups)


def as_array(labels: Sequence[Any]) -> np.ndarray:
    """Labels of texts as an array (texts, ...); where each token has one, with `IGNORED` behind the last token."""
    longest = max((len(label) for label in labels if isinstance(label, list)), default=0)
    padded = [label + [IGNORED] * (longest - len(label)) if isinstance(label, list) else label for label in labels]
    return np.asarray(padded)


def groups_of(split: Dataset) -> np.ndarray | None:
    """The number of each row's group, (rows,); None where rows are judged alone."""
    return np.asarray(values_of(split, GROUP)) if GROUP in split.column_names else None


def first_rows(split: Dataset, count: int) -> Dataset:
    """So many of the first rows of a split, or of its first groups where rows are judged in groups."""
    groups = groups_of(split)
    if groups is None:
        return split.select(range(min(count, len(split))))
    first = list(dict.fromkeys(groups.tolist()))[:count]
    return split.select(np.flatnonzero(np.isin(groups, first)))


def whole_groups(split: Dataset, rows: Collection[int] | np.ndarray) -> Dataset:
    """The rows of a split that are in a group with some of these rows; just these rows where it has no groups."""
    groups, chosen = groups_of(split), np.asarray(rows)
    return split.select(chosen if groups is None else np.flatnonzero(np.isin(groups, groups[chosen])))


def drawn_rows(split: Dataset, count: int) -> Dataset:
    """About so many random rows of a split, always the same: of groups as many as have so many rows together."""
    groups = groups_of(split)
    if groups is None:
        return split.shuffle(seed=0, keep_in_memory=True).select(range(count))
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    needed = int(np.searchsorted(sizes[order].cumsum(), count)) + 1
    return split.select(np.flatnonzero(np.isin(groups, names[order[:needed]])))
