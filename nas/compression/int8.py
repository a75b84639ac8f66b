"""`int8`: weights in 8-bit integers, with activations quantised on the fly (dynamic quantisation).

Weights are quantised symmetrically, with one scale per output row. A matrix that is multiplied has 64 levels on each
side of zero; a table that is only looked up has 127. Activations are quantised asymmetrically to 8 bits, as in ONNX's
`DynamicQuantizeLinear`, but with one scale per text instead of one per batch. The simulation in torch therefore yields
the results of a runtime that serves texts one by one. Gradients pass straight through the rounding, as in Q8BERT
(Zafrir et al., arXiv:1910.06188). ONNX Runtime has no GPU kernels for the operators of dynamic quantisation and would
silently run them on the CPU.

Why 64 levels: x86 processors without VNNI or AMX add two products of activation and weight in 16 bits, and a sum that
does not fit saturates silently. With weights from -64 to 64, the sum is at most 255 * 64 * 2 = 32,640, which fits. With
weights from -127 to 127, the sum might not fit, and the results of an export would then depend on the processor.
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

_TABLE_LEVELS = 127
_PRODUCT_LEVELS = 64
"""The largest number of levels for which the sum of two products, 255 * levels * 2, fits in 16 bits."""


def _quantise_activations(x: torch.Tensor) -> torch.Tensor:
    """Return `x` (batch, sequence, features) rounded to asymmetric 8-bit levels, with one scale per text."""
    from nas.compression.rounding import SMALLEST_SCALE, straight_through

    exact = x.detach().float()
    low = exact.amin(dim=(1, 2), keepdim=True).clamp(max=0.0)
    high = exact.amax(dim=(1, 2), keepdim=True).clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp(min=SMALLEST_SCALE)
    zero_point = (-low / scale).round().clamp(0, 255)
    quantised = (exact / scale).round_().add_(zero_point).clamp_(0, 255)
    return straight_through(x, quantised.sub_(zero_point).mul_(scale).to(x.dtype))


class Int8(Format):
    """Weights in 8-bit integers, with dynamically quantised activations."""

    name = "int8"
    examples = ("int8",)
    blocks = frozenset(BLOCKS)
    runtimes = frozenset({"onnxruntime"})
    processors = frozenset({"cpu"})

    def quantises_by_batch(self, block: Block) -> bool:
        return block != "embedding"  # a table is looked up, not multiplied: there are no inputs to quantise

    @property
    def plain(self) -> MatrixCompression:
        return NoCompression()

    def prepared(self, matrices: Matrices) -> Matrices:
        from nas.compression.rounding import symmetric

        return {"weight": symmetric(matrices["weight"], _PRODUCT_LEVELS)}

    def quantised_inputs(self, x: torch.Tensor) -> torch.Tensor:
        return _quantise_activations(x)

    def apply(self, quantised: torch.Tensor, prepared: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(quantised, prepared["weight"], bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        from torch.nn import functional

        from nas.compression.rounding import symmetric

        return symmetric(functional.embedding(ids, matrices["weight"]), _TABLE_LEVELS)

    def emit_linear(
        self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None, store: Store | None = None
    ) -> str:
        integers, scale = _quantised_integers(matrices["weight"], _PRODUCT_LEVELS)
        quantised, x_scale, x_zero_point = graph.quantise_dynamically(x)
        product = graph.add("MatMulInteger", quantised, (store or graph.constant)(integers.T), x_zero_point)
        scales = graph.add("Mul", x_scale, graph.constant(scale[:, 0]))
        scaled = graph.add("Mul", graph.cast_to_float(product), scales)
        return scaled if bias is None else graph.add("Add", scaled, graph.constant(bias))

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        integers, scale = _quantised_integers(matrices["weight"], _TABLE_LEVELS)
        rows = graph.cast_to_float(graph.add("Gather", graph.constant(integers), ids, axis=0))
        return graph.add("Mul", rows, graph.add("Gather", graph.constant(scale), ids, axis=0))

    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        return rows * columns + 4 * rows + 4 * rows * bias

    def table_bytes(self, rows: int, columns: int) -> int:
        return rows * columns + 4 * rows


def _quantised_integers(matrix: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a matrix. Returns integers (rows, columns) from -`levels` to `levels`, and their scales (rows, 1)."""
    import numpy as np

    from nas.compression.rounding import SMALLEST_SCALE

    scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), SMALLEST_SCALE * levels) / levels
    return np.round(matrix / scale).astype(np.int8), scale.astype(np.float32)
