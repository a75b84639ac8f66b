"""`int8`: weights in 8-bit integers, activations quantised on the fly (dynamic quantisation).

Weights: symmetric, one scale for each output row, 127 steps to either side. Activations: asymmetric 8-bit with
one scale for each sentence, by the definition of ONNX's `DynamicQuantizeLinear`, so that the simulation computes
what a runtime computes when it serves sentences one by one. Rounding passes gradients straight through, as in Q8BERT
(Zafrir et al., arXiv:1910.06188). ONNX Runtime has no kernels for it on a GPU, and would run them on the CPU
without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.compression.base import BLOCKS, Block, Format, MatrixCompression
from nas.compression.none import NoCompression

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.compression.base import Arrays, Matrices, Store
    from nas.graph import GraphBuilder

_INT8_LEVELS = 127


def _quantise_activations(x: torch.Tensor) -> torch.Tensor:
    """Asymmetric 8-bit values of (batch, sequence, features), one scale for each item of the batch."""
    from nas.compression.rounding import SMALLEST_SCALE, straight_through

    exact = x.detach().float()
    low = exact.amin(dim=(1, 2), keepdim=True).clamp(max=0.0)
    high = exact.amax(dim=(1, 2), keepdim=True).clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp(min=SMALLEST_SCALE)
    zero_point = (-low / scale).round().clamp(0, 255)
    quantised = (exact / scale).round_().add_(zero_point).clamp_(0, 255)
    return straight_through(x, quantised.sub_(zero_point).mul_(scale).to(x.dtype))


class Int8(Format):
    """Dynamic 8-bit quantisation."""

    name = "int8"
    examples = ("int8",)
    blocks = frozenset(BLOCKS)
    runtimes = frozenset({"onnxruntime"})
    processors = frozenset({"cpu"})

    def rounds_by_batch(self, block: Block) -> bool:
        return block != "embedding"  # a table is looked up, not multiplied

    @property
    def plain(self) -> MatrixCompression:
        return NoCompression()

    def settled(self, matrices: Matrices) -> Matrices:
        from nas.compression.rounding import symmetric

        return {"weight": symmetric(matrices["weight"], _INT8_LEVELS)}

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        return _quantise_activations(x)

    def apply(self, rounded: torch.Tensor, settled: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(rounded, settled["weight"], bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        from torch.nn import functional

        from nas.compression.rounding import symmetric

        return symmetric(functional.embedding(ids, matrices["weight"]), _INT8_LEVELS)

    def emit_linear(
        self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None, store: Store | None = None
    ) -> str:
        integers, scale = _integers(matrices["weight"])
        quantised, x_scale, x_zero_point = graph.quantise_dynamically(x)
        product = graph.add("MatMulInteger", quantised, (store or graph.constant)(integers.T), x_zero_point)
        scales = graph.add("Mul", x_scale, graph.constant(scale[:, 0]))
        real = graph.add("Mul", graph.cast_to_float(product), scales)
        return real if bias is None else graph.add("Add", real, graph.constant(bias))

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        integers, scale = _integers(matrices["weight"])
        rows = graph.cast_to_float(graph.add("Gather", graph.constant(integers), ids, axis=0))
        return graph.add("Mul", rows, graph.add("Gather", graph.constant(scale), ids, axis=0))

    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        return rows * columns + 4 * rows + 4 * rows * bias

    def table_bytes(self, rows: int, columns: int) -> int:
        return rows * columns + 4 * rows


def _integers(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit integers (rows, columns) and their scales (rows, 1)."""
    import numpy as np

    from nas.compression.rounding import SMALLEST_SCALE

    scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), SMALLEST_SCALE * _INT8_LEVELS) / _INT8_LEVELS
    return np.round(matrix / scale).astype(np.int8), scale.astype(np.float32)
