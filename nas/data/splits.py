"""How rows are divided: no text of the test set is trained on, and none is in the search set and the training set.

Rows that are judged in groups, such as the passages of a query, are divided by group.
"""

from __future__ import annotations

import random
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence

import numpy as np

from nas.data.words import Text, joined

Texts = Sequence[Sequence[Text]]
"""The columns of a split, each with a text for each row."""


def outside(columns: Texts, others: Texts) -> list[int]:
    """The numbers of the rows whose text does not stand among the `others`."""
    known = {normal(row) for row in zip(*others, strict=True)}
    return [number for number, row in enumerate(zip(*columns, strict=True)) if normal(row) not in known]


def held_out(columns: Texts, by: str, size: int, seed: int) -> list[int]:
    """Row numbers of the search set: about `size` of them, in ascending order.

    By row, rows are drawn at random; rows with equal texts go together. By sentence, whole texts (those not
    contained in another row) are drawn, and every row contained in one of them goes along. Containment is by runs of
    words; a short phrase may still occur inside sentences that stay.
    """
    texts = [normal(row) for row in zip(*columns, strict=True)]
    rows: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        rows.setdefault(text, []).append(number)
    sizes: dict[str, set[int]] = {}
    for text in rows:
        sizes.setdefault(text.split(" ")[0], set()).add(len(text.split(" ")))
    contained = {text: _spans(text, rows, sizes) if by == "sentence" else [] for text in rows}
    inner = {span for spans in contained.values() for span in spans}
    whole = [text for text in rows if text not in inner]
    random.Random(seed).shuffle(whole)
    chosen: set[int] = set()
    for text in whole:
        if len(chosen) >= size:
            break
        for member in (text, *contained[text]):
            chosen.update(rows[member])
    return sorted(chosen)


def same_in_groups(columns: Texts, groups: Sequence[int]) -> list[int]:
    """The numbers of the columns that have one text in each group: those of the query.

    All, if no column is such a one or there are no groups.
    """
    alike = []
    for number, column in enumerate(columns if groups else ()):
        first: dict[int, str] = {}
        rows = zip(groups, (normal((text,)) for text in column), strict=True)
        if all(text == first.setdefault(group, text) for group, text in rows):
            alike.append(number)
    return alike or list(range(len(columns)))


def held_out_groups(columns: Texts, groups: Sequence[int], size: int, seed: int) -> list[int]:
    """Row numbers of the search set, as `held_out` gives them: whole groups are drawn at random.

    Groups that have a row in common go together. `columns` may be only those of the query, so that the same query
    under two names is one.
    """
    members: dict[int, list[int]] = {}
    for row, part in enumerate(_connected(numbered(map(normal, zip(*columns, strict=True))), groups)):
        members.setdefault(part, []).append(row)
    parts = list(members.values())
    random.Random(seed).shuffle(parts)
    chosen: list[int] = []
    for rows in parts:
        if len(chosen) >= size:
            break
        chosen += rows
    return sorted(chosen)


def _connected(texts: Sequence[int], groups: Sequence[int]) -> list[int]:
    """For each row the number of the part that it is in: rows with the same text or group are in one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.asarray(texts), np.asarray(groups) + max(texts) + 1
    count = int(columns.max()) + 1
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    found: list[int] = connected_components(links, directed=False)[1][rows].tolist()
    return found


def numbered(values: Iterable[Hashable]) -> list[int]:
    """A number for each value, the same for equal ones, in the order in which they first come."""
    known: dict[Hashable, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def _spans(text: str, rows: Container[str], sizes: Mapping[str, Iterable[int]]) -> list[str]:
    """The other rows that are a run of this text's words. `sizes` are those of the rows by their first word."""
    words = text.split(" ")
    found = {
        span
        for start, first in enumerate(words)
        for size in sizes.get(first, ())
        if size < len(words) and start + size <= len(words) and (span := " ".join(words[start : start + size])) in rows
    }
    return sorted(found)


def normal(row: Sequence[Text]) -> str:
    """The texts of a row as one, without differences of case and white space."""
    return " ".join(" ".join(map(joined, row)).lower().split())
