"""Labels: the class or the target of each row, and the numbering that data and teacher share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import wraps
from itertools import chain
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from nas.errors import DataError, TeacherError

T = TypeVar("T")
P = ParamSpec("P")
MOST_CLASSES = 1000
_LARGEST = float(np.finfo(np.float32).max)
_UNNAMED = re.compile(r"LABEL_\d+")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_WHOLE_WITH_POINT = re.compile(r"-?(0|[1-9][0-9]*)\.0+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels as it stands in a file, or in several."""

    source: str
    """The file, or the files with commas between them."""
    name: str
    values: Sequence[Any]
    """One a row. Those of a `ClassLabel` are numbers."""
    classes: tuple[str, ...] | None = None
    """The names that a `ClassLabel` gives to its numbers."""
    parts: tuple[LabelColumn, ...] = ()
    """The columns of several files whose rows follow each other; empty for one file."""

    @classmethod
    def of(cls, parts: Sequence[LabelColumn]) -> LabelColumn:
        """The column of all rows of one or several files.

        Where the files declare classes in different orders, the order is that in which they first come. Raises
        `DataError` if only some of the files declare classes.
        """
        if len(parts) == 1:
            return parts[0]
        source, name = ", ".join(part.source for part in parts), parts[0].name
        plain = next((part for part in parts if part.classes is None), None)
        if plain is None:
            names = tuple(dict.fromkeys(chain.from_iterable(part.classes or () for part in parts)))
            parts = [part._renumbered(names) for part in parts]
        elif named := next((part for part in parts if part.classes is not None), None):
            raise DataError(
                f"{plain.place}: labels must be of one form in all files, but {named.source} declares them as classes "
                f"({_some(named.classes or ())}) and this file does not; write them as texts in all files"
            )
        values = list(chain.from_iterable(part.values for part in parts))
        return cls(source, name, values, parts[0].classes, tuple(parts))

    def _renumbered(self, names: tuple[str, ...]) -> LabelColumn:
        """The same column with its classes numbered as in `names`; a number of no class becomes -1."""
        numbers = {old: names.index(name) for old, name in enumerate(self.classes or ())}

        def renumbered(value: Any) -> Any:
            if isinstance(value, list):
                return [renumbered(each) for each in value]
            return value if value is None else numbers.get(value, -1)

        return replace(self, values=list(map(renumbered, self.values)), classes=names)

    @property
    def place(self) -> str:
        """How messages begin that are about it."""
        return f"{self.source}: column {self.name!r}"


@dataclass(frozen=True)
class Head:
    """The teacher's classifier, as far as the numbering of labels is concerned."""

    source: str
    """The teacher's folder or hub id."""
    names: tuple[str, ...]
    """The names of its outputs, in order."""
    trained_anew: bool = False
    """Whether it will be fine-tuned, and may be replaced, so that it need not fit the data."""


@dataclass(frozen=True)
class Numbering:
    """The classes of a task in the order of their numbers."""

    names: tuple[str, ...]
    numbers: Mapping[str, int]
    """The number of each class of the data, by its name there."""
    note: str = ""
    """What a user should know about it, in a line."""


def check_one_output(head: Head | None, needed: str, given: str) -> None:
    """Raise `TeacherError` if a classifier that stays as it is has not exactly one output.

    `needed` says what the task needs, `given` what to give.
    """
    if head and not head.trained_anew and len(head.names) != 1:
        raise TeacherError(
            f"teacher.model: {head.source} has {len(head.names)} labels, {needed}; give {given}, or set "
            "teacher.fine_tune"
        )


def file_by_file(
    read: Callable[Concatenate[LabelColumn, P], list[T]],
) -> Callable[Concatenate[LabelColumn, P], list[T]]:
    """Wrap a function that reads the rows of a column, so that it reads those of several files one after the other.

    Its messages then name the file, and the row there.
    """

    @wraps(read)
    def wrapped(column: LabelColumn, /, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return [found for part in column.parts or (column,) for found in read(part, *args, **kwargs)]

    return wrapped


@file_by_file
def classes_of(column: LabelColumn) -> list[str]:
    """The class of each row, by name. Whole numbers are named by their digits, also if all are written as 1.0.

    White space around a name is no part of it. Raises `DataError` for rows without a label, and for what is no class.
    """
    values, declared = _flat(column), column.classes
    values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    if declared is not None:
        named = range(len(declared))
        values = [declared[value] if value in named else None for value in values]
    refuse_missing(column, values)
    for number, value in enumerate(values):
        odd = isinstance(value, float) and not value.is_integer()
        if odd or not isinstance(value, str | int | float | Decimal):
            raise DataError(
                f"{column.place}: classes must be whole numbers or texts, but row {number} (counted from "
                f"0) holds {value!r}; correct the column, or set kind = 'regression'"
            )
    names = [str(int(value)) if isinstance(value, float) else str(value) for value in values]
    whole = declared is None and all(_WHOLE_WITH_POINT.fullmatch(name) for name in names)
    return [name.partition(".")[0] for name in names] if whole else names


def targets_of(column: LabelColumn) -> list[float]:
    """The target of each row. Raises `DataError` for rows without a finite number, and if all are equal."""
    numbers = _finite(column)
    if len(numbers) > 1 and min(numbers) == max(numbers):
        raise DataError(
            f"{column.place}: all {len(numbers)} targets are {numbers[0]:g}, so there is nothing to "
            "predict; give rows with different ones"
        )
    return numbers


@file_by_file
def _finite(column: LabelColumn) -> list[float]:
    values = _flat(column)
    refuse_missing(column, values)
    numbers = numbers_of(values)
    bad = next((number for number, value in enumerate(numbers) if not abs(value) < _LARGEST), None)
    if bad is not None:
        comma = isinstance(values[bad], str) and _NUMBER.fullmatch(values[bad].strip().replace(",", "."))
        remedy = "write a point in place of the comma" if comma else "correct the column"
        raise DataError(
            f"{column.place}: regression needs a number in every row, but row {bad} (counted from 0) "
            f"holds {values[bad]!r}; {remedy}"
        )
    return numbers


def numbers_of(values: Iterable[Any]) -> list[float]:
    """The numbers that values are or, as texts, spell; NaN for anything else."""
    return [_target(value) for value in values]


def log_odds(labels: np.ndarray) -> np.ndarray:
    """The log-odds of each label, (outputs,), from labels (rows, outputs) between 0 and 1 (Lin et al.,
    arXiv:1708.02002).

    A classifier that starts at even odds first has to learn that most labels are rare. Its bias moves too slowly for
    that, so the encoder's output becomes the same for all texts, and stays so.
    """
    share = (labels.sum(axis=0) + 0.5) / (len(labels) + 1.0)
    found: np.ndarray = np.log(share) - np.log1p(-share)
    return found


def _target(value: Any) -> float:
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else math.nan
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _flat(column: LabelColumn) -> list[Any]:
    values = [value.strip() if isinstance(value, str) else value for value in column.values]
    if any(isinstance(value, list | dict) for value in values):
        raise DataError(
            f"{column.place} must hold one label a row, but holds lists or records; correct it, or set kind = "
            "'multi_label' for lists of labels"
        )
    return values


def refuse_missing(column: LabelColumn, values: Sequence[Any]) -> None:
    """Raise `DataError` if one of a column's `values`, one a row, is None or an empty text."""
    without = [number for number, value in enumerate(values) if value is None or value == ""]
    if without:
        raise DataError(
            f"{column.place}: row {without[0]} (counted from 0) has no label, {len(without)} of "
            f"{len(values)} rows have none; fill or drop them, or use a split whose labels are public"
        )


def class_names(column: LabelColumn, classes: Sequence[str], kind: str = "classification") -> tuple[str, ...]:
    """The classes in their own order: that of a `ClassLabel`, of numbers by value, of texts by alphabet.

    Raises `DataError` if they are too few or too many for the kind of task.
    """
    names = list(column.classes) if column.classes is not None else _in_order(set(classes))
    hint = ", or set kind = 'regression' if it holds numbers to predict" if kind == "classification" else ""
    if not 2 <= len(names) <= MOST_CLASSES:
        shown = f" ({', '.join(map(repr, names))})" if len(names) < 2 else ""
        raise DataError(
            f"{column.place}: {kind} needs 2 to {MOST_CLASSES} classes, but there are {len(names)}{shown}; correct the "
            f"column{hint}"
        )
    return tuple(names)


def alike(names: Sequence[str]) -> list[str]:
    """The first names that differ by case alone; none if all differ by more."""
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(name.casefold(), []).append(name)
    return next((same for same in forms.values() if len(same) > 1), [])


def _in_order(names: set[str]) -> list[str]:
    if all(_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)


def numbering(names: Sequence[str], head: Head | None = None) -> Numbering:
    """Number the classes of the data as the teacher does; in their own order if no classifier of its is to be kept.

    Names are matched by name, whatever their order. Numbers that the teacher does not use as names are the numbers of
    its classes if it has them; else they are taken in order if there are as many. Numbers from 0 without a gap that
    are fewer than the teacher's classes are probably those of another task. Raises `TeacherError` for a teacher of
    other classes.
    """
    own = Numbering(tuple(names), {name: number for number, name in enumerate(names)})
    if head is None:
        return own
    known, count = head.names, len(head.names)
    unnamed = all(_UNNAMED.fullmatch(name) for name in known)
    by_name = _by_name(names, known)
    if head.trained_anew:
        return Numbering(known, by_name) if by_name and len(names) == count else own
    if count == 1:
        raise TeacherError(
            f"teacher.model: {head.source} gives one number, the task has {len(names)} classes; give a teacher "
            "fine-tuned for this task, or set teacher.fine_tune"
        )
    if by_name:
        return Numbering(known, by_name, _absent(known, by_name))
    whole = all(_WHOLE.fullmatch(name) and 0 <= int(name) < count for name in names)
    if whole and (len(names) == count or max(map(int, names)) >= len(names)):
        numbers = {name: int(name) for name in names}
        every = tuple(map(str, range(count))) if unnamed else known
        return Numbering(every, numbers, _absent(every, numbers))
    numeric = all(_NUMBER.fullmatch(name) for name in names)
    if len(names) == count and (unnamed or numeric):
        pairs = zip(names, range(count) if unnamed else map(repr, known), strict=True)
        note = f"The teacher does not use the data's labels as names; taken in order: {_listed(pairs)}"
        return Numbering(own.names if unnamed else known, own.numbers, note)
    raise TeacherError(
        f"teacher.model: {head.source} {_in_words(known, unnamed)}, the data {_in_words(names, False)}; name the "
        "data's labels as the teacher does, give a teacher fine-tuned for this task, or set teacher.fine_tune"
    )


def _by_name(names: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """The position of each name among those known, without regard to case if that is unambiguous; else nothing."""
    for form in (str, lambda name: name.strip().casefold()):
        positions = {form(name): number for number, name in enumerate(known)}
        sought = {form(name): name for name in names}
        if len(positions) == len(known) and len(sought) == len(names) and sought.keys() <= positions.keys():
            return {name: positions[key] for key, name in sought.items()}
    return {}


def _absent(known: Sequence[str], numbers: Mapping[str, int]) -> str:
    absent = [name for number, name in enumerate(known) if number not in numbers.values()]
    if not absent:
        return ""
    return (
        f"The training data has {len(known) - len(absent)} of the teacher's {len(known)} classes; the numbers are the "
        f"teacher's, and no row is {_some(absent)}"
    )


def _in_words(names: Sequence[str], unnamed: bool) -> str:
    return f"has {len(names)} labels" + ("" if unnamed else f": {_some(names)}")


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _listed(pairs: Any, most: int = 8) -> str:
    found = [f"{name!r} is {known}" for name, known in pairs]
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def alike_note(source: str, names: Sequence[str]) -> list[str]:
    """A warning if some names differ by case alone."""
    if not (same := alike(names)):
        return []
    shown = " and ".join(map(repr, same))
    return [f"Warning: {source}: the classes {shown} differ by case alone; are they the same?"]


def check_known(found: Numbering, train: LabelColumn, test: LabelColumn, classes: Iterable[tuple[int, str]]) -> None:
    """Raise `DataError` if one of the test set's `classes`, each with its row, is none of the training set."""
    unknown = next(((row, label) for row, label in classes if label not in found.numbers), None)
    if unknown is None:
        return
    row, label = unknown
    shown = label if label.lstrip("-").isdigit() else repr(label)
    raise DataError(
        f"{test.place}: label {shown} is no class of {train.source}, which has {len(found.numbers)} such as "
        f"{next(iter(found.numbers))!r}; use the same labels in both (row {row}, counted from 0)"
    )


@file_by_file
def names_in_lists(column: LabelColumn, rule: str, remedy: str) -> list[list[str]]:
    """The names of the labels of each row of a column of lists.

    Raises `DataError`, with a rule and a remedy of the kind of task, for a row that holds no list of labels.
    """
    refuse_missing(column, column.values)
    for number, row in enumerate(column.values):
        if not isinstance(row, list):
            raise DataError(f"{column.place}: {rule}, but row {number} (counted from 0) holds {row!r}; {remedy}")
        for value in row:
            if not _is_label(value, column):
                raise DataError(
                    f"{column.place}: labels must be whole numbers or texts, but the list in row {number} (counted "
                    f"from 0) holds {value!r}; correct it"
                )
    names: Iterator[str] = iter(classes_of(replace(column, values=[value for row in column.values for value in row])))
    return [[next(names) for _ in row] for row in column.values]


def _is_label(value: Any, column: LabelColumn) -> bool:
    if column.classes is not None:
        return value in range(len(column.classes))
    if isinstance(value, float):
        return math.isfinite(value) and value.is_integer()
    return isinstance(value, str | int) and str(value).strip() != ""


def number_lists(
    train: LabelColumn, test: LabelColumn, given: Mapping[str, Sequence[Sequence[str]]], head: Head | None, kind: str
) -> Numbering:
    """Number the labels of two columns of lists, whose names are `given` by `train` and `test`.

    Raises `DataError` if labels are too few or too many, or the test set has one that is not in the training set.
    """
    flat = [name for row in given["train"] for name in row]
    found = numbering(class_names(replace(train, values=flat), flat, kind), head)
    check_known(found, train, test, [(number, name) for number, row in enumerate(given["test"]) for name in row])
    return found
