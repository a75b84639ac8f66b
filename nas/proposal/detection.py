"""Decides which columns of a data file contain the texts and the labels, based on the columns' values and names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from nas.proposal.column import Column
from nas.proposal.decision import Clear, Unclear
from nas.proposal.labels import why_unfit
from nas.proposal.names import (
    FIRST_OF_PAIR_WORDS,
    LABEL_LIKE_WORDS,
    LABEL_NUMBER_WORDS,
    METADATA_WORDS,
    PAIR_ENDINGS,
    SECOND_OF_PAIR_WORDS,
    TEXT_WORDS,
)


def texts(columns: Sequence[Column]) -> Clear[tuple[str, ...]] | Unclear:
    """Decide which column contains the texts, or which two columns contain the texts of each pair."""
    text_columns = [column for column in columns if column.form == "text" and not column.has_label_name]
    candidates = [column for column in text_columns if not column.is_metadata] or text_columns
    names = tuple(column.name for column in candidates)
    # Columns whose names suggest texts, but whose values do not look like texts, for example because they are single
    # words.
    named_like_texts = [
        column.name
        for column in columns
        if column.form in ("codes", "classes") and {*column.words[-1:]} & TEXT_WORDS and not column.has_label_name
    ]
    if named_like_texts:
        return Unclear(
            f"{' and '.join(map(repr, named_like_texts))} may hold the texts, judging by the name, but the values do "
            "not look like texts",
            (*named_like_texts, *names),
        )
    if not candidates:
        lists = tuple(column.name for column in columns if column.form == "lists")
        if lists:
            return Unclear(
                f"no column holds texts; some hold lists ({', '.join(lists)}), but no two of these hold words and tags"
            )
        return Unclear("no column looks like texts")
    if len(candidates) == 1:
        return Clear(names)
    if len(candidates) == 2 and (pair := _ordered_pair(*candidates)):
        return Clear(pair)
    return Unclear("several columns look like texts", names)


def _ordered_pair(one: Column, other: Column) -> tuple[str, str] | None:
    """Return the names of the columns with the first texts and the second texts of all pairs.

    Return None if the column names do not suggest a pair.
    """
    for first, second in ((one, other), (other, one)):
        if {*first.words} & FIRST_OF_PAIR_WORDS and {*second.words} & SECOND_OF_PAIR_WORDS - {*first.words}:
            return first.name, second.name
    for first, second in ((one, other), (other, one)):
        if any(_differ_in(first.words, second.words, *endings) for endings in PAIR_ENDINGS):
            return first.name, second.name
    return None


def _differ_in(first: Sequence[str], second: Sequence[str], one: str, other: str) -> bool:
    """Whether the first name becomes the second name if the word `one` in it is replaced by `other`.

    If `one` is empty, `other` is inserted instead.
    """
    if not one:
        return other in second and [word for word in second if word != other] == list(first)
    if len(first) != len(second):
        return False
    return [(a, b) for a, b in zip(first, second, strict=True) if a != b] == [(one, other)]


def label(columns: Sequence[Column], text: Collection[str], same: Callable[[str, str], bool]) -> Clear[str] | Unclear:
    """Decide which column contains the labels.

    `text` contains the names of the text columns. `same` is called with the names of two columns, and returns whether
    their values correspond one to one.
    """
    other_columns = [column for column in columns if column.name not in text]
    with_label_name = [column for column in other_columns if column.has_label_name]
    possible_labels = [column for column in other_columns if column.can_be_label]
    if with_label_name and not any(column.can_be_label for column in with_label_name):
        why = why_unfit(with_label_name[0]) or "does not look like a label"
        return Unclear(f"{with_label_name[0].name} {why}", tuple(column.name for column in possible_labels))
    likely_labels = [
        column
        for column in with_label_name
        if column in possible_labels and not (set(column.words) & METADATA_WORDS - LABEL_NUMBER_WORDS)
    ]
    candidates = _without_equivalents(
        likely_labels or [column for column in possible_labels if not column.is_metadata], same
    )
    if len(candidates) == 1:
        return Clear(candidates[0].name)
    if not candidates:
        return Unclear("no column looks like a label", tuple(column.name for column in possible_labels))
    candidates.sort(key=lambda column: LABEL_LIKE_WORDS.isdisjoint(column.words))
    return Unclear("several columns may be the label", tuple(column.name for column in candidates))


def _without_equivalents(columns: Sequence[Column], same: Callable[[str, str], bool]) -> list[Column]:
    """Return the columns without duplicates. Columns are duplicates if their values correspond one to one.

    For example, one column may contain the names of classes, and another column their numbers. Of several such columns,
    the one with the shortest name is kept.
    """
    kept: list[Column] = []
    for column in sorted(columns, key=lambda column: len(column.name)):
        similar = [known for known in kept if len(known.counts) == len(column.counts) and known.form == column.form]
        if not any(column.form != "lists" and same(known.name, column.name) for known in similar):
            kept.append(column)
    return [column for column in columns if column in kept]
