"""Reads the labels of each row, and gives classes the same numbers in the data and in the teacher.

The kinds of task read a `LabelColumn` with `classes_of`, `targets_of` or `names_in_lists`. `numbering` then matches the
classes of the data with the classes of the teacher's classifier (`Head`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import wraps
from itertools import chain
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from nas.errors import DataError, TeacherError, shown

T = TypeVar("T")
P = ParamSpec("P")
MOST_CLASSES = 1000
_MOST_SHOWN = 8
"""The largest number of names that a message lists."""
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_LEAST_STEPS = 100
"""The smallest standard deviation of targets, in multiples of the difference between neighbouring float32 numbers."""
_UNNAMED_LABEL = re.compile(r"LABEL_\d+")
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")
_WHOLE_NUMBER_WITH_POINT = re.compile(r"-?(0|[1-9][0-9]*)\.0+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
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
                f"declares them as classes ({_first_names(with_classes.classes or ())}) and this file does not; write "
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


@dataclass(frozen=True)
class Head:
    """The properties of the teacher's classifier that determine the numbering of labels."""

    source: str
    """The teacher's folder or hub id."""
    names: tuple[str, ...]
    """The names of the classifier's outputs, in the order of the outputs."""
    is_retrained: bool = False
    """Whether the teacher will be fine-tuned. Fine-tuning may replace its classifier, so the classifier need not fit
    the data."""


@dataclass(frozen=True)
class Numbering:
    """The numbering of a task's classes."""

    names: tuple[str, ...]
    """The class names in the order of their numbers."""
    numbers: Mapping[str, int]
    """The number of each class in the data, keyed by the name that the class has in the data."""
    note: str = ""
    """A message to the user about a notable property of the numbering, as one line. Empty if there is none."""


def check_one_output(head: Head | None, needed: str, given: str) -> None:
    """Raise `TeacherError` if the teacher's classifier is kept and does not have exactly one output.

    Two arguments are parts of the message: `needed` is a clause that says what the task needs, and `given` names a kind
    of teacher that fits.
    """
    if head and not head.is_retrained and len(head.names) != 1:
        raise TeacherError(
            f"teacher.model: {head.source} has {len(head.names)} labels, {needed}; give {given}, or set "
            "teacher.fine_tune"
        )


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
        if is_fraction or not isinstance(value, str | int | float | Decimal):
            raise DataError(
                f"{column.place}: classes must be whole numbers or strings, but row {number} (counted from "
                f"0) holds {shown(value)}; correct the column, or set kind = 'regression'"
            )
    names = [str(int(value)) if isinstance(value, float) else str(value) for value in values]
    are_whole_numbers = declared_classes is None and all(_WHOLE_NUMBER_WITH_POINT.fullmatch(name) for name in names)
    return list(map(plain_number, names)) if are_whole_numbers else names


def plain_number(name: str) -> str:
    """Return a whole number such as "1.0" without its point. All other names are returned unchanged."""
    return name.partition(".")[0] if _WHOLE_NUMBER_WITH_POINT.fullmatch(name) else name


def _refuse_undeclared(column: LabelColumn, values: Sequence[Any], declared_classes: Sequence[str]) -> None:
    """Raise `DataError` if a class number is not declared. The number -1 stands for a missing label."""
    for row, value in enumerate(values):
        if value is not None and not -1 <= value < len(declared_classes):
            raise DataError(
                f"{column.place}: row {row} (counted from 0) holds the class number {value}, but the file declares "
                f"only {len(declared_classes)} classes ({_first_names(declared_classes)}); declare all classes"
            )


def targets_of(column: LabelColumn) -> list[float]:
    """Return the target of each row. Raises `DataError` if a row has no finite number, or if all targets are equal."""
    numbers = _finite_numbers(column)
    if len(numbers) > 1 and min(numbers) == max(numbers):
        raise DataError(
            f"{column.place}: all {len(numbers)} targets are {numbers[0]:g}, so there is nothing to "
            "predict; give rows with different targets"
        )
    spacing, deviation = float(np.spacing(np.float32(np.abs(numbers).max()))), float(np.std(numbers))
    if len(numbers) > 1 and deviation < _LEAST_STEPS * spacing:
        raise DataError(
            f"{column.place}: targets must differ by more than a network's outputs can (float32), but their standard "
            f"deviation is {deviation:.3g} and outputs of this size are multiples of {spacing:.3g}; subtract a "
            "constant from all targets"
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
        has_comma = isinstance(values[bad_row], str) and _NUMBER.fullmatch(values[bad_row].strip().replace(",", "."))
        remedy = "write a decimal point instead of the comma" if has_comma else "correct the column"
        raise DataError(
            f"{column.place}: regression needs a number in every row, but row {bad_row} (counted from 0) "
            f"holds {shown(values[bad_row])}; {remedy}"
        )
    return numbers


def parse_numbers(values: Iterable[Any]) -> list[float]:
    """Return the values as numbers. Strings such as "2.5" are converted. Values that are not numbers become NaN."""
    return [_parse_number(value) for value in values]


def log_odds(labels: np.ndarray) -> np.ndarray:
    """Return the log-odds of each label. `labels` has the shape (rows, outputs), and its values are from 0 to 1.

    The result has the shape (outputs,). It is the initial bias of a new classifier (Lin et al., arXiv:1708.02002). With
    a bias of 0, training first has to learn that most labels are rare. The bias changes slowly, so the encoder adapts
    instead and collapses: its output becomes the same for all texts and remains so.
    """
    share = (labels.sum(axis=0) + 0.5) / (len(labels) + 1.0)
    odds: np.ndarray = np.log(share) - np.log1p(-share)
    return odds


def _parse_number(value: Any) -> float:
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else math.nan
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
            f"{len(values)} rows have none); fill or drop such rows, or use a split whose labels are public"
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
            f"{column.place}: {kind} needs 2 to {MOST_CLASSES} classes, but there are {len(names)}{shown}; choose a "
            f"column with 2 to {MOST_CLASSES} distinct labels{hint}"
        )
    return tuple(names)


def alike(names: Sequence[str]) -> list[str]:
    """Return the first group of names that differ only in case, in invisible characters or in their Unicode form.

    Empty if there is no such group.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        visible = (letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
        groups.setdefault("".join(visible).casefold().strip(), []).append(name)
    return next((group for group in groups.values() if len(group) > 1), [])


def _sorted_names(names: set[str]) -> list[str]:
    if all(_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)


def numbering(names: Sequence[str], head: Head | None) -> Numbering:
    """Number the classes of the data like the outputs of the teacher's classifier `head`.

    If the classifier is not kept, the numbers follow the order of `names`. Otherwise, the first of these rules that
    applies determines the numbers:
      - Every class has the same name as an output.
      - Every class is the number of an output.
      - There are as many classes as outputs, and either the outputs have no names or the classes are numbers. In this
        case, the first class is matched with the first output, the second class with the second, and so on.

    The second rule excludes one case: the classes are consecutive numbers from 0, and there are fewer classes than
    outputs. Such data probably belongs to a different task. Raises `TeacherError` if no rule applies.
    """
    own_numbering = Numbering(tuple(names), {name: number for number, name in enumerate(names)})
    if head is None:
        return own_numbering
    teacher_names, count = head.names, len(head.names)
    is_unnamed = all(_UNNAMED_LABEL.fullmatch(name) for name in teacher_names)
    by_name = _match_by_name(names, teacher_names)
    if head.is_retrained:
        return Numbering(teacher_names, by_name) if by_name and len(names) == count else own_numbering
    if count == 1:
        raise TeacherError(
            f"teacher.model: {head.source} outputs one number, but the task has {len(names)} classes; give a teacher "
            "fine-tuned for this task, or set teacher.fine_tune"
        )
    if by_name:
        return Numbering(teacher_names, by_name, _absent_classes_note(teacher_names, by_name))
    are_class_numbers = all(_WHOLE_NUMBER.fullmatch(name) and 0 <= int(name) < count for name in names)
    if are_class_numbers and (len(names) == count or max(map(int, names)) >= len(names)):
        numbers = {name: int(name) for name in names}
        all_names = tuple(map(str, range(count))) if is_unnamed else teacher_names
        note = _absent_classes_note(all_names, numbers)
        if not note and not is_unnamed:
            meanings = [f"{name!r} is {teacher_names[number]!r}" for name, number in numbers.items()]
            note = f"The labels of the data are taken as the numbers of the teacher's classes: {_first_items(meanings)}"
        return Numbering(all_names, numbers, note)
    are_numbers = all(_NUMBER.fullmatch(name) for name in names)
    if len(names) == count and (is_unnamed or are_numbers):
        pairs = zip(names, range(count) if is_unnamed else map(repr, teacher_names), strict=True)
        note = (
            "The teacher's class names differ from the labels of the data, and are matched with them by position: "
            f"{_first_items([f'{name!r} is {known}' for name, known in pairs])}"
        )
        return Numbering(own_numbering.names if is_unnamed else teacher_names, own_numbering.numbers, note)
    raise TeacherError(
        f"teacher.model: {head.source} {_labels_in_words(teacher_names, is_unnamed)}, but the data "
        f"{_labels_in_words(names, False)}; name the data's labels as the teacher does, give a teacher fine-tuned for "
        "this task, or set teacher.fine_tune"
    )


def _match_by_name(names: Sequence[str], teacher_names: Sequence[str]) -> dict[str, int]:
    """Return the index of each name in `teacher_names`. Case is ignored if this is unambiguous.

    The result is empty if a name is missing in `teacher_names`.
    """
    for normalise in (str, lambda name: name.strip().casefold()):
        positions = {normalise(name): number for number, name in enumerate(teacher_names)}
        names_by_form = {normalise(name): name for name in names}
        if (
            len(positions) == len(teacher_names)
            and len(names_by_form) == len(names)
            and names_by_form.keys() <= positions.keys()
        ):
            return {name: positions[key] for key, name in names_by_form.items()}
    return {}


def _absent_classes_note(teacher_names: Sequence[str], numbers: Mapping[str, int]) -> str:
    """Return a note about classes of the teacher that the training data lacks. Empty if it lacks none."""
    absent = [name for number, name in enumerate(teacher_names) if number not in numbers.values()]
    if not absent:
        return ""
    return (
        f"The training data has only {len(teacher_names) - len(absent)} of the teacher's {len(teacher_names)} classes; "
        f"the teacher's numbering is kept, and no row is labelled {_first_names(absent)}"
    )


def _labels_in_words(names: Sequence[str], is_unnamed: bool) -> str:
    return f"has {len(names)} labels" + ("" if is_unnamed else f": {_first_names(names)}")


def _first_names(names: Sequence[str]) -> str:
    return _first_items(list(map(repr, names)))


def _first_items(items: Sequence[str]) -> str:
    rest = len(items) - _MOST_SHOWN
    return ", ".join(items[:_MOST_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def notes_on(class_numbering: Numbering, source: str, head: Head | None) -> list[str]:
    """Return the remark on how the classes were numbered, if there is one, and warnings about the class names.

    There is a warning if several names look like the same class. There is another if a name looks like a missing label,
    unless the teacher's classifier has it as a class. `source` is the file from which the classes were read.
    """
    names = class_numbering.names
    notes = [class_numbering.note] if class_numbering.note else []
    notes += [
        f"Warning: {source}: {name!r} is treated as a class; if it means that a row has no label, drop such rows"
        for name in names
        if name.casefold() in MISSING_LABEL_VALUES and (head is None or head.is_retrained)
        # In a task with two classes, -1 is usually the negative class.
        if len(names) > 2 or not name.startswith("-1")
    ]
    if group := alike(names):
        differs_in_case = len({name.casefold() for name in group}) == 1
        shown = " and ".join(map(repr if differs_in_case else ascii, group))
        difference = "case" if differs_in_case else "case, invisible characters or Unicode form"
        notes.append(f"Warning: {source}: the classes {shown} differ only in {difference}; are they the same?")
    return notes


def check_known(
    class_numbering: Numbering, train: LabelColumn, test: LabelColumn, classes: Iterable[tuple[int, str]]
) -> None:
    """Raise `DataError` if the training set lacks a class of the test set.

    Each item of `classes` is a row number in the test set and a class of this row.
    """
    unknown_label = next(((row, label) for row, label in classes if label not in class_numbering.numbers), None)
    if unknown_label is None:
        return
    row, label = unknown_label
    shown = label if label.lstrip("-").isdigit() else repr(label)
    raise DataError(
        f"{test.place}, row {row} (counted from 0): label {shown} is not a class of {train.source}, which has "
        f"{len(class_numbering.numbers)} classes such as {next(iter(class_numbering.numbers))!r}; use the same labels "
        "in both files"
    )


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


def number_lists(
    train: LabelColumn,
    test: LabelColumn,
    names_by_set: Mapping[str, Sequence[Sequence[str]]],
    head: Head | None,
    kind: str,
) -> Numbering:
    """Number the labels of a task in which each row has a list of labels. See `numbering` for the rules.

    `names_by_set` holds the names of each row's labels, keyed by `train` and `test`. Raises `DataError` if there are
    too few or too many labels, or if the test set has a label that the training set lacks.
    """
    all_names = [name for row in names_by_set["train"] for name in row]
    class_numbering = numbering(class_names(replace(train, values=all_names), all_names, kind), head)
    check_known(
        class_numbering,
        train,
        test,
        [(number, name) for number, row in enumerate(names_by_set["test"]) for name in row],
    )
    return class_numbering
