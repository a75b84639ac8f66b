"""How rows are divided: no text of the test set is trained on, and none is in the search set and the training set."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Sequence

Texts = Sequence[Sequence[str]]
"""The columns of a split, each with a text for each row."""


def outside(columns: Texts, others: Texts) -> list[int]:
    """The numbers of the rows whose text does not stand among the `others`."""
    known = {normal(row) for row in zip(*others, strict=True)}
    return [number for number, row in enumerate(zip(*columns, strict=True)) if normal(row) not in known]


def held_out(columns: Sequence[Sequence[str]], by: str, size: int, seed: int) -> list[int]:
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


def normal(row: Sequence[str]) -> str:
    """The texts of a row as one, without differences of case and white space."""
    return " ".join(" ".join(row).lower().split())
