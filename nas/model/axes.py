"""The axes of parameters: which of them run over units that a search may drop.

Every module of a network that holds parameters says once what its axes stand for. Ordering by importance, magnitudes,
the completion of narrow hidden sizes and sizes in bytes follow from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


class Axis(StrEnum):
    """A kind of units that an axis of a parameter runs over."""

    HIDDEN = "hidden"
    """Units of the hidden states."""
    POOLED = "pooled"
    """Units of the pooler, as many as hidden units."""
    HEADS = "heads"
    """Heads of one layer's attention."""
    HEAD_FEATURES = "head features"
    """Features of all heads of one layer, those of one head in a row."""
    NEURONS = "neurons"
    """Units inside one layer's feed-forward block."""


Axes = tuple[Axis | None, ...]
"""What the axes of a parameter run over, None for what is not searched."""


def along(module: M, *axes: Axis | None) -> M:
    """Return the module after noting what the axes of its weight run over: rows and columns of a matrix.

    The bias of a module with a matrix, or of a norm, has the first of them.
    """
    module.axes = axes  # type: ignore[assignment]
    return module


def labelled(module: nn.Module) -> Iterator[tuple[nn.Parameter, Axes]]:
    """Yield weight and bias of a module with their axes, where axes were noted.

    Matrices of compression choices other than the weight have none.
    """
    axes = cast(Axes, getattr(module, "axes", ()))
    for name, own in (("weight", axes), ("bias", axes[:1])):
        parameter = getattr(module, name, None) if axes else None
        if isinstance(parameter, nn.Parameter):
            yield parameter, own
