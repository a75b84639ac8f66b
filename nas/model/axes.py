"""The units (hidden units, heads, neurons and so on) that the axes of a network's parameters run over.

Each module with parameters records once, with `along`, which units the axes of its weight run over. The ordering by
importance, the unit magnitudes, the completion of narrow hidden sizes and the size calculations are derived from
these records.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


class Axis(StrEnum):
    """The kind of units that an axis of a parameter runs over."""

    HIDDEN = "hidden"
    """Hidden units: the features of the hidden states."""
    POOLED = "pooled"
    """The pooler's output units, as many as there are hidden units."""
    HEADS = "heads"
    """The attention heads of one layer."""
    HEAD_FEATURES = "head features"
    """The features of all attention heads of one layer; those of one head are contiguous."""
    NEURONS = "neurons"
    """The intermediate neurons of one layer's feed-forward block."""


Axes = tuple[Axis | None, ...]
"""The kind of units for each axis of a parameter; None for an axis whose length is not searched."""


def along(module: M, *axes: Axis | None) -> M:
    """Record which units the axes of a module's weight run over (rows, then columns), and return the module.

    The only axis of the module's bias is the first axis of its weight.
    """
    module.axes = axes  # type: ignore[assignment]
    return module


def labelled(module: nn.Module) -> Iterator[tuple[nn.Parameter, Axes]]:
    """Yield the weight and the bias of a module with their axes, if `along` has recorded axes for it.

    Other matrices, which a compression method has in place of the weight, are not yielded.
    """
    axes = cast(Axes, getattr(module, "axes", ()))
    for name, own in (("weight", axes), ("bias", axes[:1])):
        parameter = getattr(module, name, None) if axes else None
        if isinstance(parameter, nn.Parameter):
            yield parameter, own
