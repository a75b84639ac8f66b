"""Tolerances for comparing two computations of the same numbers, on any processor.

Processors and libraries add the terms of a sum in different orders, so results differ by rounding errors. A rounding
error is proportional to the numbers that were added, not to their sum, which is smaller if they cancel. Differences are
therefore compared with the largest magnitude of the expected values. If the expected values are themselves differences,
`size` sets this magnitude.

Results are compared exactly if the same operations run in the same order on one machine: values that are read back from
a file, slices, counts and digests. Numbers that Python computes from the same double-precision numbers are compared
with `pytest.approx`, and shares of random draws with a multiple of their standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

NumberFormat = Literal["float32", "float16", "bf16", "int8"]

RELATIVE: dict[NumberFormat, float] = {
    # 256 rounding errors of 2**-23. In 2,300 comparisons of tiny networks under AVX-512, AVX2 and SSE instructions, the
    # largest difference was 45 rounding errors. A slice that is wrong by one row differs by at least 1,600
    # (test_tolerance.py).
    "float32": 2.0**-15,
    # 8 rounding errors of weights (2**-11): the attention's scale may be folded into the weights of the query before or
    # after they are rounded.
    "float16": 2.0**-8,
    # 32 rounding errors of 2**-9: each matrix product is rounded, and a tiny network has about twenty in a row.
    "bf16": 2.0**-4,
    # 8 of the 255 steps of quantised activations. If a rounding error of float32 moves an activation across the middle
    # between two steps, it is off by one step. This affects few texts, so most texts must be as close as in float32.
    "int8": 8 / 255,
}
"""The largest allowed difference in each number format, relative to the largest magnitude."""

Values = torch.Tensor | np.ndarray | Sequence[Any] | float


def _array(values: Values) -> np.ndarray:
    return np.asarray(values.detach() if isinstance(values, torch.Tensor) else values, dtype=np.float64)


def slack(values: Values, number_format: NumberFormat = "float32") -> float:
    """Return the difference that rounding errors may cause between numbers as large as `values`."""
    return RELATIVE[number_format] * float(np.abs(_array(values)).max(initial=0.0))


def is_same(
    found: Values, expected: Values, number_format: NumberFormat = "float32", size: Values | None = None
) -> bool:
    """Whether two arrays of the same shape differ only by rounding errors. For `int8`, the first axis is the texts."""
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
    """Fail, and show both arrays, if they differ by more than rounding errors."""
    if not is_same(found, expected, number_format, size):
        given, due = _array(found), _array(expected)
        assert given.shape == due.shape, f"{of}: the shape is {given.shape} instead of {due.shape}"
        allowed = slack(expected if size is None else size, number_format)
        largest = np.abs(given - due).max()
        raise AssertionError(
            f"{of} differ by up to {largest:.3g}, but {number_format} allows {allowed:.3g}"
            f"{', and for half of the texts only as much as float32' if number_format == 'int8' else ''}:\n{given}\n"
            f"instead of\n{due}"
        )
