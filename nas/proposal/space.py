"""Search spaces for a teacher: a shipped one that fits, or a new one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nas.compression import BLOCKS, EIGHT_BIT, compression
from nas.report.rendering import fill
from nas.space import SearchSpace, Shape, shipped_spaces

_COUNTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20)
"""Proposed numbers of layers and of attention heads. Only numbers below the teacher's number are proposed."""
_HIDDEN_SHARES, _INTERMEDIATE_SHARES = (1 / 2, 2 / 3, 5 / 6, 1), (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
"""Proposed hidden and intermediate sizes, as shares of the teacher's sizes."""


def fitting_space(shape: Shape, runtimes: Collection[str]) -> str | None:
    """Return the name of a shipped search space for teachers of this shape. None if there is no such space.

    If possible, all runtimes support all compression methods of the space.
    """
    names = [name for name in sorted(shipped_spaces()) if SearchSpace.load(name).teacher == shape]
    supported = (
        name for name in names if not any(unsupported_methods(SearchSpace.load(name), each) for each in runtimes)
    )
    return next(supported, names[0] if names else None)


def space_text(shape: Shape, runtimes: Collection[str]) -> str:
    """Return TOML text that defines a search space for teachers of this shape, for these runtimes."""
    supported = (name for name in EIGHT_BIT if all(compression(name).runs_on(each, "cpu") for each in runtimes))
    width = 32 if shape.hidden_size >= 128 else 8
    return fill(
        "nas.proposal",
        "search_space.toml.jinja",
        teacher=shape,
        layers=_counts(shape.num_hidden_layers),
        hidden_sizes=_sizes(shape.hidden_size, _HIDDEN_SHARES, width),
        heads=_counts(shape.num_attention_heads),
        intermediate_sizes=_sizes(shape.intermediate_size, _INTERMEDIATE_SHARES, width),
        methods=["none", next(supported, EIGHT_BIT[0])],
    )


def _counts(largest: int) -> list[int]:
    return [*(count for count in _COUNTS if count < largest), largest]


def _sizes(largest: int, shares: Sequence[float], multiple: int) -> list[int]:
    """Return the shares of the size `largest`, and `largest` itself, in ascending order.

    Each share is rounded to a multiple of `multiple`.
    """
    smaller = {round(largest * share / multiple) * multiple for share in shares}
    return sorted(size for size in {*smaller, largest} if 0 < size <= largest)


def unsupported_methods(space: SearchSpace, runtime: str) -> list[str]:
    """Return the compression methods of a search space that a runtime cannot execute, in alphabetical order."""
    offered = {choice for block in BLOCKS for choice in getattr(space.compression, block)}
    return sorted(choice for choice in offered if runtime not in compression(choice).runtimes)
