"""The kinds of units (hidden units, heads, neurons and so on) along the axes of a network's parameters.

When a network is built, `along` records for each module the kinds of units along the axes of its weight. These records
are used to order the units by importance, to measure their magnitude, to find the modules that change with the hidden
size (`nas/supernet/narrow.py`), and to compute the parameter counts and stored sizes of sub-networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


class Axis(StrEnum):
    """The kind of units along an axis of a parameter. The axis has one index per unit."""

    HIDDEN = "hidden"
    """Hidden units: the features of the hidden states."""
    POOLED = "pooled"
    """The output units of the pooler. There are as many pooler outputs as hidden units."""
    HEADS = "heads"
    """The attention heads of one layer."""
    HEAD_FEATURES = "head features"
    """The features of all attention heads of one layer. The features of each head are contiguous."""
    NEURONS = "neurons"
    """The intermediate neurons of one layer's feed-forward block."""


Axes = tuple[Axis | None, ...]
"""The kind of units along each axis of a parameter; None for an axis whose length the search does not change."""


def along(module: M, *axes: Axis | None) -> M:
    """Record the kinds of units along the axes of a module's weight (rows, then columns), and return the module.

    If the module has a bias, the bias has the same units as the first axis of the weight.
    """
    module.axes = axes  # type: ignore[assignment]
    return module


def labelled(module: nn.Module) -> Iterator[tuple[nn.Parameter, Axes]]:
    """Yield the weight and the bias of a module, each with its axes, if `along` has recorded axes for the module.

    If a compression method replaces the weight with other matrices, these matrices are not yielded.
    """
    axes = cast(Axes, getattr(module, "axes", ()))
    for name, parameter_axes in (("weight", axes), ("bias", axes[:1])):
        parameter = getattr(module, name, None) if axes else None
        if isinstance(parameter, nn.Parameter):
            yield parameter, parameter_axes
