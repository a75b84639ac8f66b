"""`int8`: weights are stored as 8-bit integers, and activations are quantised at run time (dynamic quantisation).

Weights are quantised symmetrically, with one scale per row. The integers range from -64 to 64 in linear layers, and
from -127 to 127 in embedding tables. Activations are quantised asymmetrically to 8 bits. ONNX's `DynamicQuantizeLinear`
computes one scale per batch, but the torch implementation computes one scale per text. The results in torch are
therefore those of a runtime that processes one text at a time. The gradients ignore the rounding (straight-through
gradients), as in Q8BERT (Zafrir et al., arXiv:1910.06188). The method runs only on the CPU, because ONNX Runtime has no
GPU kernels for dynamic quantisation and would silently use the CPU.

The limit of 64 in linear layers prevents overflows. On x86 processors without VNNI or AMX, the sum of two products of
activation and weight is computed in 16 bits, and a sum that is too large is silently clipped. With weights from -64 to
64, the sum is at most 255 * 64 * 2 = 32,640, which fits in 16 bits. With weights from -127 to 127, the sum might not
fit, and the results of an export would depend on the processor.
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
PRODUCT_LEVELS = 64
"""The largest absolute value of a quantised weight for which the sum of two products, 255 * value * 2, fits in a signed
16-bit integer.
"""


def _quantise_activations(x: torch.Tensor) -> torch.Tensor:
    """Quantise `x` (batch, sequence, features) asymmetrically to 8 bits, with one scale per text, and dequantise it."""
    from nas.compression.rounding import asymmetric

    exact = x.detach().float()
    return asymmetric(x, exact.amin(dim=(1, 2), keepdim=True), exact.amax(dim=(1, 2), keepdim=True))


class EightBitWeights(MatrixCompression):
    """A method that stores weights and embedding tables as 8-bit integers, with one scale per row.

    Subclasses define how the inputs of linear layers are quantised.
    """

    @property
    def plain(self) -> MatrixCompression:
        return NoCompression()

    def prepared(self, matrices: Matrices) -> Matrices:
        from nas.compression.rounding import symmetric

        return {"weight": symmetric(matrices["weight"], PRODUCT_LEVELS)}

    def apply(self, quantised: torch.Tensor, prepared: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(quantised, prepared["weight"], bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        from torch.nn import functional

        from nas.compression.rounding import symmetric

        return symmetric(functional.embedding(ids, matrices["weight"]), _TABLE_LEVELS)

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        integers, scale = quantised_integers(matrices["weight"], _TABLE_LEVELS)
        rows = graph.cast_to_float(graph.add("Gather", graph.constant(integers), ids, axis=0))
        return graph.add("Mul", rows, graph.add("Gather", graph.constant(scale), ids, axis=0))

    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        return rows * columns + 4 * rows + 4 * rows * bias

    def table_bytes(self, rows: int, columns: int) -> int:
        return rows * columns + 4 * rows


class Int8(EightBitWeights, Format):
    """Weights are stored as 8-bit integers, and activations are quantised dynamically."""

    name = "int8"
    examples = ("int8",)
    blocks = frozenset(BLOCKS)
    operations = frozenset({"dynamic_int8"})

    def quantises_by_batch(self, block: Block) -> bool:
        return block != "embedding"  # a table is looked up, not multiplied: there are no inputs to quantise

    def quantised_inputs(self, x: torch.Tensor) -> torch.Tensor:
        return _quantise_activations(x)

    def emit_linear(
        self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None, store: Store | None = None
    ) -> str:
        integers, scale = quantised_integers(matrices["weight"], PRODUCT_LEVELS)
        quantised, x_scale, x_zero_point = graph.quantise_dynamically(x)
        product = graph.add("MatMulInteger", quantised, (store or graph.constant)(integers.T), x_zero_point)
        scales = graph.add("Mul", x_scale, graph.constant(scale[:, 0]))
        scaled = graph.add("Mul", graph.cast_to_float(product), scales)
        return scaled if bias is None else graph.add("Add", scaled, graph.constant(bias))


def quantised_integers(matrix: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a matrix to integers from -`levels` to `levels`, with one scale per row.

    Returns the integers (rows, columns) and the scales (rows, 1).
    """
    import numpy as np

    from nas.compression.rounding import SMALLEST_SCALE

    scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), SMALLEST_SCALE * levels) / levels
    return np.round(matrix / scale).astype(np.int8), scale.astype(np.float32)
