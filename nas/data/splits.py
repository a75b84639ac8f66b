"""Divide rows into training, search and test sets, so that no text is in more than one of them.

Rows that are evaluated in groups, such as the passages of a query, are divided by group.
"""

from __future__ import annotations

import random
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence

import numpy as np

from nas.data.words import Text, joined

Texts = Sequence[Sequence[Text]]
"""The columns of texts of a split; each column has one text per row."""


def outside(columns: Texts, other_columns: Texts) -> list[int]:
    """Return the row numbers of the rows in `columns` whose texts do not occur as a row of `other_columns`."""
    other_texts = {normal(row) for row in zip(*other_columns, strict=True)}
    return [number for number, row in enumerate(zip(*columns, strict=True)) if normal(row) not in other_texts]


def held_out(columns: Texts, unit: str, size: int, seed: int) -> list[int]:
    """Return about `size` row numbers for the search set, in ascending order.

    If `unit` is `row`, rows are drawn at random, and rows with equal texts stay together. If `unit` is `sentence`, only
    sentences are drawn: texts that are not part of another row. All rows that are part of a drawn sentence are held
    out with it. A row is part of a text if it is a contiguous span of the text's words. A short phrase in the search
    set may still be part of sentences in the training set.
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
    """Return the indices of the columns whose text is the same in all rows of each group, such as the query.

    If there is no such column, or if there are no groups, all columns are returned.
    """
    same_columns = []
    for number, column in enumerate(columns if groups else ()):
        first_texts: dict[int, str] = {}
        rows = zip(groups, (normal((text,)) for text in column), strict=True)
        if all(text == first_texts.setdefault(group, text) for group, text in rows):
            same_columns.append(number)
    return same_columns or list(range(len(columns)))


def held_out_groups(columns: Texts, groups: Sequence[int], size: int, seed: int) -> list[int]:
    """Return the row numbers of the search set as `held_out` does, but draw whole groups at random.

    Groups with equal texts in `columns` stay together. If `columns` holds only the query, a query with two group names
    is therefore treated as one group.
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
    """Return the index of each row's connected component. Rows with the same text or the same group are connected."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.asarray(texts), np.asarray(groups) + max(texts) + 1
    count = int(columns.max()) + 1
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    components: list[int] = connected_components(links, directed=False)[1][rows].tolist()
    return components


def numbered(values: Iterable[Hashable]) -> list[int]:
    """Return a number for each value, in the order of first occurrence; equal values get the same number."""
    known: dict[Hashable, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def _contained_rows(text: str, rows: Container[str], sizes: Mapping[str, Iterable[int]]) -> list[str]:
    """Return the texts of `rows`, other than `text` itself, that are contiguous spans of the words of `text`.

    `sizes` maps a first word to the lengths, in words, of the rows that begin with it.
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
    """Return the texts of a row as one string in lower case and with single spaces, so that rows can be compared."""
    return " ".join(" ".join(map(joined, row)).lower().split())
