"""Divides rows into training, search and test sets, so that rows with the same texts are never in different sets.

If rows are evaluated in groups, such as the passages of a query, each group stays in one set.
"""

from __future__ import annotations

import random
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence

import numpy as np

from nas.data.words import Text, joined
from nas.errors import DataError, counted
from nas.study import Task

Texts = Sequence[Sequence[Text]]
"""The columns of texts of a split. Each column has one text per row."""


def outside(columns: Texts, other_columns: Texts) -> list[int]:
    """Return the numbers of the rows of `columns` whose texts do not occur together in a row of `other_columns`."""
    other_texts = {normal(row) for row in zip(*other_columns, strict=True)}
    return [number for number, row in enumerate(zip(*columns, strict=True)) if normal(row) not in other_texts]


def divided(
    task: Task, texts: Mapping[str, Texts], groups: Mapping[str, Sequence[int]], sources: Mapping[str, str], seed: int
) -> dict[str, list[int]]:
    """Divide the training rows into a training set and a search set, and return the row numbers of each set.

    The row numbers are in ascending order. `texts`, `groups` and `sources` are keyed by `train` and `test`. They hold
    the columns of texts, the group number of each row (empty if there are no groups), and the names of the files.
    Training rows that also occur in the test set are left out. Raises `DataError` if one of the sets has no rows.
    """
    # Queries of the test set must not occur in the training set, even with other passages.
    compared_columns = same_in_groups(texts["train"], groups["train"])
    kept_rows = outside(*([texts[name][column] for column in compared_columns] for name in ("train", "test")))
    if not kept_rows:
        raise DataError(f"{sources['train']}: every row also occurs in {sources['test']}; give a different test set")
    kept_texts = [[column[row] for row in kept_rows] for column in texts["train"]]
    size = task.holdout.size_of(len(kept_rows))
    if task.group_column:
        kept_groups = [groups["train"][row] for row in kept_rows]
        search_positions = held_out_groups([kept_texts[column] for column in compared_columns], kept_groups, size, seed)
    else:
        search_positions = held_out(kept_texts, task.holdout.by, size, seed)
    if not 0 < len(search_positions) < len(kept_rows):
        raise DataError(
            f"{sources['train']}: some rows must be left for training, but the search set of {counted(size, 'row')}, "
            f"held out by {task.group_column or task.holdout.by}, needs {len(search_positions)} of "
            f"{counted(len(kept_rows), 'row')}; reduce task.holdout.size, or give more rows"
        )
    in_search = set(search_positions)
    return {
        "train": [number for position, number in enumerate(kept_rows) if position not in in_search],
        "search": [kept_rows[position] for position in search_positions],
    }


def held_out(columns: Texts, unit: str, size: int, seed: int) -> list[int]:
    """Return about `size` row numbers for the search set, in ascending order.

    If `unit` is `row`, rows are drawn at random, and rows with equal texts stay together. If `unit` is `sentence`, the
    search set consists of randomly drawn sentences and of all rows that are part of them. A sentence is a text that is
    not part of another row. A row is part of a text if the row's words occur in the text as a contiguous sequence. A
    short phrase in the search set may also be part of sentences in the training set.
    """
    texts = [normal(row) for row in zip(*columns, strict=True)]
    rows: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        rows.setdefault(text, []).append(number)
    sizes: dict[str, set[int]] = {}
    for text in rows:
        sizes.setdefault(text.split(" ")[0], set()).add(len(text.split(" ")))
    contained = {text: _contained_rows(text, rows, sizes) if unit == "sentence" else [] for text in rows}
    inner = {span for spans in contained.values() for span in spans}
    drawable = [text for text in rows if text not in inner]
    random.Random(seed).shuffle(drawable)
    chosen: set[int] = set()
    for text in drawable:
        if len(chosen) >= size:
            break
        for member in (text, *contained[text]):
            chosen.update(rows[member])
    return sorted(chosen)


def same_in_groups(columns: Texts, groups: Sequence[int]) -> list[int]:
    """Return the indices of the columns whose text is the same in all rows of a group, such as the query.

    If there is no such column, or if there are no groups, return the indices of all columns.
    """
    same_columns = []
    for number, column in enumerate(columns if groups else ()):
        first_texts: dict[int, str] = {}
        rows = zip(groups, (normal((text,)) for text in column), strict=True)
        if all(text == first_texts.setdefault(group, text) for group, text in rows):
            same_columns.append(number)
    return same_columns or list(range(len(columns)))


def held_out_groups(columns: Texts, groups: Sequence[int], size: int, seed: int) -> list[int]:
    """Return about `size` row numbers for the search set, as `held_out` does, but draw whole groups at random.

    Two groups stay together if a row of one group has the same texts in `columns` as a row of the other group. For
    example, if `columns` contains only the query, all groups with the same query stay together.
    """
    members: dict[int, list[int]] = {}
    for row, component in enumerate(_components(numbered(map(normal, zip(*columns, strict=True))), groups)):
        members.setdefault(component, []).append(row)
    components = list(members.values())
    random.Random(seed).shuffle(components)
    chosen: list[int] = []
    for rows in components:
        if len(chosen) >= size:
            break
        chosen += rows
    return sorted(chosen)


def _components(texts: Sequence[int], groups: Sequence[int]) -> list[int]:
    """Return the index of each row's connected component.

    Two rows are connected if they have the same text or the same group.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.asarray(texts), np.asarray(groups) + max(texts) + 1
    count = int(columns.max()) + 1
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    components: list[int] = connected_components(links, directed=False)[1][rows].tolist()
    return components


def numbered(values: Iterable[Hashable]) -> list[int]:
    """Return a number for each value.

    Equal values get equal numbers. The numbers 0, 1, 2 and so on are assigned in the order of first occurrence.
    """
    known: dict[Hashable, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def _contained_rows(text: str, rows: Container[str], sizes: Mapping[str, Iterable[int]]) -> list[str]:
    """Return the texts in `rows` that occur in `text` as a contiguous sequence of words, except `text` itself.

    `sizes` is keyed by the first word of a row and holds the lengths, in words, of the rows that begin with it.
    """
    words = text.split(" ")
    spans = {
        span
        for start, first in enumerate(words)
        for size in sizes.get(first, ())
        if size < len(words) and start + size <= len(words) and (span := " ".join(words[start : start + size])) in rows
    }
    return sorted(spans)


def normal(row: Sequence[Text]) -> str:
    """Return the texts of a row as one string, so that rows can be compared.

    The string is in lower case, and each run of white space is replaced by a single space.
    """
    return " ".join(" ".join(map(joined, row)).lower().split())
