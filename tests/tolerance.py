"""How near two computations of the same numbers must come, on any processor.

Processors and libraries add the terms of a sum in different orders, so that results differ by roundings. A rounding is
a share of the numbers that were added, not of what is left after they cancel. Differences are therefore compared with
the largest magnitude of what is expected, or of `size` where what is expected is itself a difference.

Comparisons without tolerance belong where the same operations run in the same order on one machine: what is read from
a file again, slices, counts, digests. Figures that Python computes from the same double-precision numbers are compared
by `pytest.approx`; shares of random draws by their standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

NumberFormat = Literal["float32", "float16", "bf16", "int8"]

RELATIVE: dict[NumberFormat, float] = {
    # 256 roundings (2**-23). Of 2,300 comparisons of tiny networks under AVX-512, AVX2 and SSE instructions the worst
    # differed by 45 roundings. A slice that is wrong by one row differs by 1,600 and more (test_tolerance.py).
    "float32": 2.0**-15,
    # 8 roundings of weights (2**-11): the scale of attention lies in the queries, which are rounded with it or without.
    "float16": 2.0**-8,
    # 32 roundings (2**-9): products are rounded, of which a tiny network has some twenty in a row.
    "bf16": 2.0**-4,
    # 8 steps of the 255 that activations have. Where float32's roundings move one across the middle between two steps,
    # it is off by a step, which few texts see: most must be as near as in float32.
    "int8": 8 / 255,
}
"""The largest difference of each number format, as a share of the largest magnitude."""

Values = torch.Tensor | np.ndarray | Sequence[Any] | float


def _array(values: Values) -> np.ndarray:
    return np.asarray(values.detach() if isinstance(values, torch.Tensor) else values, dtype=np.float64)


def slack(values: Values, number_format: NumberFormat = "float32") -> float:
    """The difference that roundings may make between numbers as large as `values`."""
    return RELATIVE[number_format] * float(np.abs(_array(values)).max(initial=0.0))


def is_same(
    found: Values, expected: Values, number_format: NumberFormat = "float32", size: Values | None = None
) -> bool:
    """Whether two arrays of one shape differ by roundings alone. The first axis of `int8` is that of texts."""
    given, due, scale = _array(found), _array(expected), _array(expected if size is None else size)
    if given.shape != due.shape or not np.isfinite(given).all():
        return False
    differences = np.abs(given - due)
    if number_format == "int8" and np.median(differences.reshape(len(due), -1).max(axis=1)) > slack(scale):
        return False
    return bool(differences.max(initial=0.0) <= slack(scale, number_format))


def assert_same(
    found: Values,
    expected: Values,
    number_format: NumberFormat = "float32",
    size: Values | None = None,
    of: str = "values",
) -> None:
    """Fail with both sides where they differ by more than roundings."""
    if not is_same(found, expected, number_format, size):
        given, due = _array(found), _array(expected)
        assert given.shape == due.shape, f"{of}: {given.shape} in place of {due.shape}"
        allowed = slack(expected if size is None else size, number_format)
        largest = np.abs(given - due).max()
        raise AssertionError(
            f"{of} differ by up to {largest:.3g}, where {number_format} allows {allowed:.3g}"
            f"{' and float32 for half of the texts' if number_format == 'int8' else ''}:\n{given}\nin place of\n{due}"
        )
