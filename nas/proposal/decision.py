"""Decisions that are either clear or left to the user.

A decision is `Clear` if only one interpretation is possible. Otherwise it is `Unclear`, with a reason and with
candidates, so that `nas init` can ask the user instead of guessing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Clear(Generic[T]):
    """A decision for the only possible interpretation."""

    value: T


@dataclass(frozen=True)
class Unclear:
    """A decision that the user has to make. `why` is the reason, and `candidates` are the known options."""

    why: str
    candidates: tuple[str, ...] = ()
