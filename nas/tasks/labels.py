"""Columns of labels, and functions that read classes, targets or lists of labels from them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import wraps
from itertools import chain
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from nas.errors import DataError, shown

T = TypeVar("T")
P = ParamSpec("P")
MOST_CLASSES = 1000
_MOST_SHOWN = 8
"""The largest number of names that a message lists."""
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_LEAST_STEPS = 100
"""The smallest standard deviation of targets, in multiples of the difference between neighbouring float32 numbers."""
_WHOLE_NUMBER_WITH_POINT = re.compile(r"-?(0|[1-9][0-9]*)\.0+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
"""A number. A string with a longer exponent is not a number but, for example, a hash value."""
MISSING_LABEL_VALUES = frozenset({"-", "--", "?", "-1", "-1.0", "n/a", "#n/a", "na", "<na>", "nan", "null"})
"""Values that often represent a missing label, in lower case."""


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels from one or several data files."""

    source: str
    """The name of the file, or the names of several files, separated by commas."""
    name: str
    values: Sequence[Any]
    """One label per row. If the column is declared as a `ClassLabel`, the labels are class numbers."""
    classes: tuple[str, ...] | None = None
    """The class names that a `ClassLabel` declares, in the order of their numbers. None if the column is not a
    `ClassLabel`."""
    parts: tuple[LabelColumn, ...] = ()
    """The columns of the individual files whose rows are concatenated. Empty if there is only one file."""

    @classmethod
    def of(cls, parts: Sequence[LabelColumn]) -> LabelColumn:
        """Return the column that concatenates the rows of one or several files.

        If all files declare classes, the classes are numbered in the order in which they first occur. Raises
        `DataError` if only some of the files declare classes.
        """
        if len(parts) == 1:
            return parts[0]
        source, name = ", ".join(part.source for part in parts), parts[0].name
        without_classes = next((part for part in parts if part.classes is None), None)
        if without_classes is None:
            names = tuple(dict.fromkeys(chain.from_iterable(part.classes or () for part in parts)))
            parts = [part._renumbered(names) for part in parts]
        elif with_classes := next((part for part in parts if part.classes is not None), None):
            raise DataError(
                f"{without_classes.place}: labels must have the same form in all files, but {with_classes.source} "
                f"declares them as classes ({first_names(with_classes.classes or ())}) and this file does not; write "
                "them as strings in all files"
            )
        values = list(chain.from_iterable(part.values for part in parts))
        return cls(source, name, values, parts[0].classes, tuple(parts))

    def _renumbered(self, names: tuple[str, ...]) -> LabelColumn:
        """Return the same column with classes numbered by their index in `names`. An unknown number becomes -1."""
        numbers = {old_number: names.index(name) for old_number, name in enumerate(self.classes or ())}

        def renumbered(value: Any) -> Any:
            if isinstance(value, list):
                return [renumbered(item) for item in value]
            return value if value is None else numbers.get(value, -1)

        return replace(self, values=list(map(renumbered, self.values)), classes=names)

    @property
    def place(self) -> str:
        """The names of the file and the column. Error messages about this column begin with them."""
        return f"{self.source}: column {self.name!r}"


def file_by_file(
    read: Callable[Concatenate[LabelColumn, P], list[T]],
) -> Callable[Concatenate[LabelColumn, P], list[T]]:
    """Wrap a function that reads the rows of a column, so that it is called separately for the column of each file.

    Its error messages then name the file, and count rows within this file.
    """

    @wraps(read)
    def wrapped(column: LabelColumn, /, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return [value for part in column.parts or (column,) for value in read(part, *args, **kwargs)]

    return wrapped


@file_by_file
def classes_of(column: LabelColumn) -> list[str]:
    """Return the class name of each row, without surrounding white space. Whole numbers are written as digits.

    If all labels are strings such as "1.0", they are treated as whole numbers. Raises `DataError` for rows without a
    label, and for values that cannot be classes.
    """
    values, declared_classes = _single_values(column), column.classes
    values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    if declared_classes is not None:
        valid_numbers = range(len(declared_classes))
        _refuse_undeclared(column, values, declared_classes)
        values = [declared_classes[value] if value in valid_numbers else None for value in values]
    refuse_missing(column, values)
    for number, value in enumerate(values):
        is_fraction = isinstance(value, float) and not value.is_integer()
        if is_fraction or not isinstance(value, str | int | float):
            hint = ", or set kind = 'regression'" if is_fraction and math.isfinite(value) else ""
            raise DataError(
                f"{column.place}: classes must be whole numbers or strings, but row {number} (counted from "
                f"0) holds {shown(value)}; correct the column{hint}"
            )
    names = [str(int(value)) if isinstance(value, float) else str(value) for value in values]
    are_whole_numbers = declared_classes is None and all(_WHOLE_NUMBER_WITH_POINT.fullmatch(name) for name in names)
    return list(map(plain_number, names)) if are_whole_numbers else names


def plain_number(name: str) -> str:
    """Return a whole number such as "1.0" without its point. All other names are returned unchanged."""
    if not _WHOLE_NUMBER_WITH_POINT.fullmatch(name):
        return name
    digits = name.partition(".")[0]
    return "0" if digits == "-0" else digits


def _refuse_undeclared(column: LabelColumn, values: Sequence[Any], declared_classes: Sequence[str]) -> None:
    """Raise `DataError` if a class number is not declared. The number -1 stands for a missing label."""
    for row, value in enumerate(values):
        if value is not None and not -1 <= value < len(declared_classes):
            raise DataError(
                f"{column.place}: row {row} (counted from 0) holds the class number {value}, but the file declares "
                f"only {len(declared_classes)} classes ({first_names(declared_classes)}); declare all classes in the "
                "ClassLabel"
            )


def targets_of(column: LabelColumn) -> list[float]:
    """Return the target of each row.

    Raises `DataError` if a row has no finite number, or if the targets are equal or differ too little for float32.
    """
    numbers = _finite_numbers(column)
    if len(numbers) > 1 and min(numbers) == max(numbers):
        raise DataError(
            f"{column.place}: all {len(numbers)} targets are {numbers[0]:g}, so there is nothing to "
            "predict; give rows with different targets"
        )
    spacing, deviation = float(np.spacing(np.float32(np.abs(numbers).max()))), float(np.std(numbers))
    if len(numbers) > 1 and deviation < _LEAST_STEPS * spacing:
        raise DataError(
            f"{column.place}: targets must differ by much more than the precision of a network's outputs (float32), "
            f"but their standard deviation is {deviation:.3g} and the precision at this size is {spacing:.3g}; "
            "subtract a constant, such as their mean, from all targets"
        )
    return numbers


@file_by_file
def _finite_numbers(column: LabelColumn) -> list[float]:
    """Return the number in each row. Raises `DataError` if a row does not hold a finite number."""
    values = _single_values(column)
    refuse_missing(column, values)
    numbers = parse_numbers(values)
    bad_row = next((row for row, value in enumerate(numbers) if not abs(value) < _LARGEST_FLOAT32), None)
    if bad_row is not None:
        text = str(values[bad_row])
        has_comma = "," in text and NUMBER.fullmatch(text.strip().replace(",", "."))
        remedy = "write a decimal point instead of the comma" if has_comma else "correct the column"
        raise DataError(
            f"{column.place}: every row must hold a finite number, but row {bad_row} (counted from 0) "
            f"holds {shown(values[bad_row])}; {remedy}"
        )
    return numbers


def parse_numbers(values: Iterable[Any]) -> list[float]:
    """Return the values as numbers. Strings such as "2.5" are converted. Values that are not numbers become NaN."""
    return [_parse_number(value) for value in values]


def log_odds(labels: np.ndarray) -> np.ndarray:
    """Return the log-odds of each label. `labels` has the shape (rows, outputs), and its values are from 0 to 1.

    The result has the shape (outputs,). It is the initial bias of a new classifier (Lin et al., arXiv:1708.02002). If
    the initial bias were 0, training would first have to learn that most labels are rare. Because the bias changes
    slowly, the encoder would adapt instead and collapse: its output would become the same for all texts and remain so.
    """
    share = (labels.sum(axis=0) + 0.5) / (len(labels) + 1.0)
    odds: np.ndarray = np.log(share) - np.log1p(-share)
    return odds


def _parse_number(value: Any) -> float:
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value.strip()) else math.nan
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _single_values(column: LabelColumn) -> list[Any]:
    """Return the values of a column, without white space around strings. Raises `DataError` for lists and records."""
    values = [value.strip() if isinstance(value, str) else value for value in column.values]
    if any(isinstance(value, list | dict) for value in values):
        raise DataError(
            f"{column.place} must hold one label per row, but holds lists or records; write one label per row, "
            "or set kind = 'multi_label' for lists of labels"
        )
    return values


def refuse_missing(column: LabelColumn, values: Sequence[Any]) -> None:
    """Raise `DataError` if a value is None or an empty string. `values` holds one value per row of the column."""
    rows_without_label = [number for number, value in enumerate(values) if value is None or value == ""]
    if rows_without_label:
        raise DataError(
            f"{column.place}: row {rows_without_label[0]} (counted from 0) has no label ({len(rows_without_label)} of "
            f"{len(values)} rows have none); add the labels, drop such rows, or use a split whose labels are public"
        )


def class_names(column: LabelColumn, classes: Sequence[str], kind: str = "classification") -> tuple[str, ...]:
    """Return the class names. Classes of a `ClassLabel` keep their order, and all other classes are sorted.

    Numbers are sorted by value, and strings alphabetically. Raises `DataError` if there are too few or too many classes
    for the kind of task.
    """
    names = list(column.classes) if column.classes is not None else _sorted_names(set(classes))
    hint = ", or set kind = 'regression' if this one holds numbers to predict" if kind == "classification" else ""
    if not 2 <= len(names) <= MOST_CLASSES:
        shown = f" ({names[0]!r})" if len(names) == 1 else ""
        raise DataError(
            f"{column.place}: {kind} needs 2 to {MOST_CLASSES} classes, but found {len(names)}{shown}; choose a "
            f"column with 2 to {MOST_CLASSES} distinct labels{hint}"
        )
    return tuple(names)


def _sorted_names(names: set[str]) -> list[str]:
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)


def first_names(names: Sequence[str]) -> str:
    """Return names in quotes for a message, separated by commas. If there are many, only the first ones are listed."""
    return first_items(list(map(repr, names)))


def first_items(items: Sequence[str]) -> str:
    """Return items for a message, separated by commas. If there are many, only the first ones are listed."""
    rest = len(items) - _MOST_SHOWN
    return ", ".join(items[:_MOST_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


@file_by_file
def names_in_lists(column: LabelColumn, rule: str, remedy: str) -> list[list[str]]:
    """Return the names of each row's labels, for a column whose values are lists.

    Raises `DataError` if a row does not hold a list of labels. `rule` and `remedy` are parts of the message.
    """
    refuse_missing(column, column.values)
    for number, row in enumerate(column.values):
        if not isinstance(row, list):
            raise DataError(f"{column.place}: {rule}, but row {number} (counted from 0) holds {shown(row)}; {remedy}")
        for value in row:
            if not _is_label(value, column):
                raise DataError(
                    f"{column.place}: labels must be whole numbers or strings, but the list in row {number} "
                    f"(counted from 0) holds {shown(value)}; correct this list"
                )
    names: Iterator[str] = iter(classes_of(replace(column, values=[value for row in column.values for value in row])))
    return [[next(names) for _ in row] for row in column.values]


def multi_hot_width(rows: Sequence[Any]) -> int:
    """Return the number of labels if each row is a vector with one 0 or 1 per label, such as [0, 1, 1].

    If the rows are anything else, such as lists of the labels that apply, return 0.
    """
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    are_vectors = all(isinstance(row, list) and len(row) == width for row in rows)
    return width if width > 1 and are_vectors and all(value in (0, 1) for row in rows for value in row) else 0


def _is_label(value: Any, column: LabelColumn) -> bool:
    """Whether an item of a list can be a label: a declared class, a whole number or a string that is not blank."""
    if column.classes is not None:
        return value in range(len(column.classes))
    if isinstance(value, float):
        return math.isfinite(value) and value.is_integer()
    return isinstance(value, str | int) and str(value).strip() != ""
