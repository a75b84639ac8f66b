"""Detection of columns for tagging tasks: columns with lists of words, and columns with a tag for each of these words.

`Columns.of` calls `tagged_columns` before it examines all other columns with `Column.of`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow
import pyarrow.compute
from datasets import ClassLabel, Dataset, LargeList, List, Value

from nas.data.files import arrow_column
from nas.proposal.column import LABEL_TYPES, TEXT_TYPES, Column
from nas.tasks.labels import MOST_CLASSES


def tagged_columns(rows: Dataset, names: Sequence[str]) -> dict[str, tuple[Column, tuple[str, ...]]]:
    """Return the columns that may hold tags, keyed by name. Each value is a pair (summary, names of word columns).

    A word column is a column of words that the tags may describe. In every row, it contains as many words as there are
    tags. It also contains more distinct words than there are distinct tags.
    """
    lists = {name: values for name in names if (values := _list_values(rows, name)) is not None}
    lengths = {name: pyarrow.compute.list_value_length(values).fill_null(0) for name, values in lists.items()}
    distinct = {
        name: len(pyarrow.compute.unique(pyarrow.compute.list_flatten(values))) for name, values in lists.items()
    }
    tagged = {}
    for name, values in lists.items():
        if not 2 <= distinct[name] <= MOST_CLASSES or pyarrow.compute.max(lengths[name]).as_py() < 2:
            continue
        words = tuple(
            other
            for other in lists
            if _element(rows, other).dtype in TEXT_TYPES
            and distinct[other] > distinct[name]
            and lengths[other].equals(lengths[name])
        )
        if words:
            tagged[name] = (_tag_column(rows, name, values), words)
    return tagged


def _element(rows: Dataset, name: str) -> Value | ClassLabel:
    element: Value | ClassLabel = rows.features[name].feature
    return element


def _list_values(rows: Dataset, name: str) -> pyarrow.ChunkedArray | None:
    """Return the values of a column with lists of strings or integers, or None for any other column."""
    feature = rows.features[name]
    if not isinstance(feature, List | LargeList) or not isinstance(feature.feature, Value | ClassLabel):
        return None
    if feature.feature.dtype not in LABEL_TYPES:
        return None
    return arrow_column(rows, name)


def _tag_column(rows: Dataset, name: str, values: pyarrow.ChunkedArray) -> Column:
    element = _element(rows, name)
    names = element.names if isinstance(element, ClassLabel) else None
    counts = {
        names[item["values"]] if names else str(item["values"]).strip(): item["counts"]
        for item in pyarrow.compute.value_counts(pyarrow.compute.list_flatten(values)).to_pylist()
        if item["values"] is not None and not (names and item["values"] not in range(len(names)))
    }
    return Column(name, "tags", counts, values.null_count, len(names) if names else None)
