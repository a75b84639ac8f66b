"""Decides what the values of a label column mean, and whether a column can contain labels at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nas.errors import counted
from nas.proposal.column import Column
from nas.proposal.decision import Clear, Unclear
from nas.proposal.names import GRADE_WORDS, LABEL_LIKE_WORDS
from nas.proposal.values import FEW_VALUES
from nas.tasks import Meaning
from nas.tasks.labels import MISSING_LABEL_VALUES, MOST_CLASSES

_LABEL_SEPARATORS = "|;,"
"""Characters that may separate the labels of a row in one string."""


def can_be_grade(column: Column) -> bool:
    """Return whether the values may be grades of relevance: whole numbers from 0, or a few declared classes."""
    if column.classes:
        return column.classes <= FEW_VALUES
    numbers = column.numbers or []
    return bool(numbers) and numbers[0] == 0.0 and all(map(float.is_integer, numbers))


def why_unfit(column: Column) -> str | None:
    """Return why a column cannot contain labels, as a clause for messages. None if it can contain labels."""
    if column.form == "lists" and not column.counts:
        return (
            "holds lists, but not lists of labels (in Parquet or JSONL, with distinct names or whole numbers per list)"
        )
    if not column.counts:
        return "holds texts" if column.form == "text" else "is empty"
    if len(column.counts) == 1:
        return f"holds only one value, {next(iter(column.counts))!r}"
    if column.numbers is None and len(column.counts) > MOST_CLASSES:
        return f"holds {len(column.counts):,} different texts, but at most {MOST_CLASSES:,} classes are supported"
    return None


def meaning(column: Column, outputs: int | None) -> Clear[Meaning] | Unclear:
    """Decide what the values of a label column mean. If the result is `Unclear`, its candidates are meanings.

    The column must be one for which `why_unfit` returns None. `outputs` is the number of outputs of a fine-tuned
    teacher, or None. If only one meaning is possible with this number of outputs, return this meaning. Otherwise,
    numbers have a clear meaning only if the values and the column name allow a single interpretation.
    """
    if column.list_meaning:
        return Clear(column.list_meaning)
    classes, numbers = column.classes or len(column.counts), None if column.classes else column.numbers
    missing_value = min((text for text in column.counts if text.casefold() in MISSING_LABEL_VALUES), default=None)
    if missing_value and classes > 2 and outputs != classes and (numbers is None or numbers[0] == -1):
        row_count = column.counts[missing_value]
        return Unclear(
            f"column {column.name} holds {missing_value!r} in {counted(row_count, 'row')}: remove such rows if the "
            "value means that the label is missing, or use the value as a class.",
            ("classes",),
        )
    if not column.classes and outputs != classes and (joined_value := _joined_labels(column)):
        return Unclear(
            f"column {column.name} holds {joined_value!r}, which may be several labels of one row: write them as lists "
            "(in Parquet or JSONL) for multi_label, or use each value as a class.",
            ("classes",),
        )
    clear_meaning: Meaning | None = "classes" if numbers is None else _meaning_of_numbers(column, numbers, outputs)
    if clear_meaning and (clear_meaning == "scale" or outputs != 1):
        return Clear(clear_meaning)
    number_range = f" from {numbers[0]:g} to {numbers[-1]:g}" if numbers else ""
    description = f"{classes} {'different numbers' if numbers else 'classes'}{number_range}"
    teacher = ", and the teacher has 1 output" if outputs == 1 else ""
    return Unclear(f"column {column.name} holds {description}{teacher}: classes or a scale?", ("classes", "scale"))


def _joined_labels(column: Column) -> str | None:
    """Return a value that seems to consist of several labels, such as "joy|love". None if there is none.

    The labels must be parts of several values, because a class may have a name such as "science, technology".
    """
    for separator in _LABEL_SEPARATORS:
        parts_by_value = {value: [part.strip() for part in value.split(separator)] for value in column.counts}
        joined = [value for value, parts in parts_by_value.items() if len(parts) > 1 and all(parts)]
        value_counts = Counter(part for parts in parts_by_value.values() for part in {*parts})
        labels = {part for value in joined for part in parts_by_value[value]}
        if len(joined) > 1 and 2 * sum(value_counts[label] > 1 for label in labels) >= len(labels):
            return min(joined)
    return None


def _meaning_of_numbers(column: Column, numbers: Sequence[float], outputs: int | None) -> Meaning | None:
    """Return the meaning of labels that are numbers. None if they may be either classes or values on a scale."""
    is_whole = all(number.is_integer() for number in numbers)
    if not is_whole:
        return "scale" if outputs == 1 or len(numbers) > FEW_VALUES else None
    if outputs == 1:
        return "scale" if len(numbers) > 2 else None
    if outputs == len(numbers) or len(numbers) == 2:
        return "classes"
    from_zero = list(numbers) == list(range(len(numbers)))
    as_floats = any("." in text or "e" in text.lower() for text in column.counts)
    is_grade = not GRADE_WORDS.isdisjoint(column.words)
    is_class = not (LABEL_LIKE_WORDS - GRADE_WORDS - {"target", "y"}).isdisjoint(column.words)
    if len(numbers) <= MOST_CLASSES and not as_floats and not is_grade and (from_zero or is_class):
        return "classes"
    return None
