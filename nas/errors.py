"""Exceptions that `nas` raises for problems that the user can fix, and functions for the wording of messages.

The command line prints the message of such an exception as one line and exits with code 2.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

_LONGEST_VALUE = 120
"""The largest number of characters of a value that a message shows."""


def shown(value: Any) -> str:
    """Return a value as a Python literal in one line for a message. Long texts are cut off."""
    text = re.sub(r"\s*\n\s*", " ", repr(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def visible_form(text: str) -> str:
    """Return the form of a text in which two texts are equal if they look the same or nearly the same.

    It has no invisible characters, no white space at its ends, and a normalised Unicode form.
    """
    letters = (letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) != "Cf")
    return "".join(letters).strip()


def counted(count: int, noun: str) -> str:
    """Return a number with a noun, such as `1 label` or `2,000 labels`. The noun is given in the singular."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def listed(names: Iterable[str], conjunction: str = "or") -> str:
    """Return names as a list in a sentence, such as `onnxruntime, torch or openvino`."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


class NasError(Exception):
    """A problem that the user can fix. The message states the rule, the actual value and the remedy."""

    exit_code = 2


class MachineError(NasError):
    """A limit of the machine, such as disk space, permissions, open files or memory, prevents an operation.

    The user's input is not the cause.
    """


class SearchSpaceError(NasError):
    """A malformed search-space file, or an architecture that does not belong to its search space."""


class StudyError(NasError):
    """A malformed study file, or settings in it that contradict each other."""


class DataError(NasError):
    """A data set that cannot be read or that lacks something the study requires."""


class TeacherError(NasError):
    """A teacher that cannot be loaded or does not fit the search space."""


class TrainingError(NasError):
    """A training run whose loss became NaN or infinite, whose checkpoints belong to a different training run, or whose
    workers failed."""


class DeviceError(NasError):
    """A device or runtime that cannot perform the requested measurement."""


class ClusterError(NasError):
    """A Ray cluster that does not exist or that this machine cannot join."""


class InfeasibleBudgetError(NasError):
    """A budget that no architecture of the search space can meet."""


class SearchError(NasError):
    """A search that cannot start or continue."""


class ExportError(NasError):
    """A sub-network that cannot be exported, or an export that failed its verification."""


class MissedBudgetsError(ExportError):
    """Budgets for which no network was exported. `reasons` maps the name of each budget to the reason."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons


def first_line(problem: Exception) -> str:
    """Return the first line of an exception's message, or the name of its type if the message is empty."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
