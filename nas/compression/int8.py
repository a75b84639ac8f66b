"""`int8`: weights in 8-bit integers, activations quantised on the fly (dynamic quantisation).

Weights: symmetric, one scale for each output row, 127 steps to either side. Activations: asymmetric 8-bit with
one scale for each sentence, by the definition of ONNX's `DynamicQuantizeLinear`, so that the simulation computes
what a runtime computes when it serves sentences one by one. Rounding passes gradients straight through
(Bengio et al., arXiv:1308.3432), as in Q8BERT (Zafrir et al., arXiv:1910.06188).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.compression.base import BLOCKS, Compression

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.graph import GraphBuilder

_LEVELS = 127
_SMALLEST_SCALE = 1e-12


def _straight_through(exact: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return exact + (rounded - exact).detach()


def _quantise_rows(weight: torch.Tensor) -> torch.Tensor:
    """Symmetric 8-bit values of a matrix, one scale a row, given back as floating-point numbers."""
    scale = weight.detach().abs().amax(dim=1, keepdim=True).clamp(min=_SMALLEST_SCALE * _LEVELS) / _LEVELS
    return _straight_through(weight, (weight / scale).round() * scale)


def _quantise_activations(x: torch.Tensor) -> torch.Tensor:
    """Asymmetric 8-bit values of (batch, sequence, features), one scale for each item of the batch."""
    exact = x.detach().float()
    low = exact.amin(dim=(1, 2), keepdim=True).clamp(max=0.0)
    high = exact.amax(dim=(1, 2), keepdim=True).clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp(min=_SMALLEST_SCALE)
    zero_point = (-low / scale).round().clamp(0, 255)
    quantised = ((exact / scale).round() + zero_point).clamp(0, 255)
    return _straight_through(x, ((quantised - zero_point) * scale).to(x.dtype))


class Int8(Compression):
    """Dynamic 8-bit quantisation."""

    name = "int8"
    blocks = frozenset(BLOCKS)
    runtimes = frozenset({"onnxruntime"})

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(_quantise_activations(x), _quantise_rows(weight), bias)

    def embed(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        rows = functional.embedding(ids, table)
        return _quantise_rows(rows.flatten(0, 1)).view_as(rows)

    def emit_linear(self, graph: GraphBuilder, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        integers, scale = _integers(weight)
        quantised, x_scale, x_zero_point = graph.quantise_dynamically(x)
        product = graph.add(
            "MatMulInteger",
            quantised,
            graph.constant(integers.T),
            x_zero_point,
            graph.constant(integers[:, 0] * 0),
        )
        scales = graph.add("Mul", x_scale, graph.constant(scale[:, 0]))
        real = graph.add("Mul", graph.cast_to_float(product), scales)
        return graph.add("Add", real, graph.constant(bias))

    def emit_embed(self, graph: GraphBuilder, ids: str, table: np.ndarray) -> str:
        integers, scale = _integers(table)
        rows = graph.cast_to_float(graph.add("Gather", graph.constant(integers), ids, axis=0))
        return graph.add("Mul", rows, graph.add("Gather", graph.constant(scale), ids, axis=0))

    def linear_bytes(self, rows: int, columns: int) -> int:
        return rows * columns + 9 * rows  # integers, and for each row a scale, a bias and a zero point

    def table_bytes(self, rows: int, columns: int) -> int:
        return rows * columns + 4 * rows


def _integers(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit integers (rows, columns) and their scales (rows, 1)."""
    import numpy as np

    scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), _SMALLEST_SCALE * _LEVELS) / _LEVELS
    return np.round(matrix / scale).astype(np.int8), scale.astype(np.float32)
