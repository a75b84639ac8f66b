"""Gives classes the same numbers in the data and in the teacher's classifier (`Head`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.errors import DataError, TeacherError, visible_form
from nas.tasks.labels import MISSING_LABEL_VALUES, NUMBER, LabelColumn, class_names, first_items, first_names

_UNNAMED_LABEL = re.compile(r"LABEL_\d+")
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")


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
    """Raise `TeacherError` if the teacher's classifier will not be retrained and does not have exactly one output.

    Two arguments are parts of the message: `needed` is a clause that says what the task needs, and `given` names the
    kind of teacher that the user should give.
    """
    if head and not head.is_retrained and len(head.names) != 1:
        raise TeacherError(
            f"teacher.model: {head.source} has {len(head.names)} labels, {needed}; give {given}, or set "
            "teacher.fine_tune"
        )


def alike(names: Sequence[str]) -> list[str]:
    """Return the first group of names that differ only in case, in invisible characters or in their Unicode form.

    Empty if there is no such group.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(visible_form(name).casefold(), []).append(name)
    return next((group for group in groups.values() if len(group) > 1), [])


def numbering(names: Sequence[str], head: Head | None) -> Numbering:
    """Number the classes of the data like the outputs of the teacher's classifier `head`.

    If there is no classifier, the numbers follow the order of `names`. The same is true if the classifier will be
    retrained, unless its outputs have exactly the names of the classes. In all other cases, the first of these rules
    that applies determines the numbers:
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
    # `float` accepts any number of digits, but `int` does not.
    are_class_numbers = all(_WHOLE_NUMBER.fullmatch(name) and 0 <= float(name) < count for name in names)
    if are_class_numbers and (len(names) == count or max(map(int, names)) >= len(names)):
        numbers = {name: int(name) for name in names}
        all_names = tuple(map(str, range(count))) if is_unnamed else teacher_names
        note = _absent_classes_note(all_names, numbers)
        if not note and not is_unnamed:
            meanings = [f"{name!r} is {teacher_names[number]!r}" for name, number in numbers.items()]
            note = f"The labels of the data are read as the numbers of the teacher's classes: {first_items(meanings)}"
        return Numbering(all_names, numbers, note)
    are_numbers = all(NUMBER.fullmatch(name) for name in names)
    if len(names) == count and (is_unnamed or are_numbers):
        pairs = zip(names, range(count) if is_unnamed else map(repr, teacher_names), strict=True)
        note = (
            "The teacher's class names differ from the labels of the data, and are matched with them by position: "
            f"{first_items([f'{name!r} is {known}' for name, known in pairs])}"
        )
        return Numbering(own_numbering.names if is_unnamed else teacher_names, own_numbering.numbers, note)
    raise TeacherError(
        f"teacher.model: {head.source} {_labels_in_words(teacher_names, is_unnamed)}, but the data "
        f"{_labels_in_words(names, False)}; use the teacher's names for the labels of the data, give a teacher "
        "fine-tuned for this task, or set teacher.fine_tune"
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
        f"the teacher's numbering is kept, and no row is labelled {first_names(absent)}"
    )


def _labels_in_words(names: Sequence[str], is_unnamed: bool) -> str:
    return f"has {len(names)} labels" + ("" if is_unnamed else f": {first_names(names)}")


def notes_on(class_numbering: Numbering, source: str, head: Head | None) -> list[str]:
    """Return the remark on how the classes were numbered, if there is one, and warnings about the class names.

    There is a warning if several names look like the same class. There is another if a name looks like a missing label,
    unless it is a class of the teacher's classifier. `source` is the file from which the classes were read.
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
        notes.append(
            f"Warning: {source}: the classes {shown} differ only in {difference}; if they are the same class, use one "
            "name for it"
        )
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
    known = list(class_numbering.numbers)
    similar = next((name for name in known if alike([name, label])), known[0])
    look_equal = visible_form(similar) == visible_form(label)
    written = ascii if look_equal else repr  # escapes show the difference
    shown = label if label.lstrip("-").isdigit() and not look_equal else written(label)
    raise DataError(
        f"{test.place}, row {row} (counted from 0): label {shown} is not a class of {train.source}, which has "
        f"{len(known)} classes such as {written(similar)}; use the same labels in both files"
    )


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
