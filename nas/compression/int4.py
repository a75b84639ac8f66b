"""`int4`: weights are stored as 4-bit integers, with one scale per 32 weights. Activations are not quantised.

Quantisation is symmetric: the integers range from -7 to 7. The 32 weights that share a scale are neighbours in a row.
The last scale of a row may cover fewer weights. ONNX Runtime executes this format with `MatMulNBits` and
`GatherBlockQuantized`. The method saves space, but no time: on the CPU, a matrix product is about as slow as in 32-bit
floating point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.compression.base import BLOCKS, Format, MatrixCompression
from nas.compression.none import NoCompression

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.compression.base import Arrays, Matrices, Store
    from nas.graph import GraphBuilder

_INT4_LEVELS = 7
_STORED_ZERO = 8
"""The unsigned integer that represents zero. ONNX Runtime uses this zero point by default."""
_BLOCK_SIZE = 32
_FULL_ACCURACY = 1
"""The `accuracy_level` of `MatMulNBits` that keeps activations in 32-bit floating point."""
_OPERATOR_DOMAIN = "com.microsoft"


def _quantised_weight(weight: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    from nas.compression.rounding import symmetric

    columns = weight.shape[-1]
    blocks = functional.pad(weight, (0, -columns % _BLOCK_SIZE)).unflatten(-1, (-1, _BLOCK_SIZE))
    return symmetric(blocks, _INT4_LEVELS).flatten(-2)[..., :columns]


class Int4(Format):
    """Weights are stored as 4-bit integers."""

    name = "int4"
    examples = ("int4",)
    blocks = frozenset(BLOCKS)
    operations = frozenset({"int4_blocks"})
    stores_zeros = False  # each byte holds two numbers

    @property
    def plain(self) -> MatrixCompression:
        return NoCompression()

    def prepared(self, matrices: Matrices) -> Matrices:
        return {"weight": _quantised_weight(matrices["weight"])}

    def apply(self, quantised: torch.Tensor, prepared: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(quantised, prepared["weight"], bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        from torch.nn import functional

        return _quantised_weight(functional.embedding(ids, matrices["weight"]))

    def emit_linear(
        self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None, store: Store | None = None
    ) -> str:
        rows, columns = matrices["weight"].shape
        packed, scales = _packed_integers(matrices["weight"])
        product = graph.add(
            "MatMulNBits",
            x,
            (store or graph.constant)(packed.reshape(rows, -1, _BLOCK_SIZE // 2)),
            graph.constant(scales.reshape(-1)),
            domain=_OPERATOR_DOMAIN,
            K=columns,
            N=rows,
            bits=4,
            block_size=_BLOCK_SIZE,
            accuracy_level=_FULL_ACCURACY,
        )
        return product if bias is None else graph.add("Add", product, graph.constant(bias))

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        columns = matrices["weight"].shape[1]
        packed, scales = _packed_integers(matrices["weight"])
        stored = graph.constant(packed[:, : -(-columns // 2)])
        return graph.add(
            "GatherBlockQuantized",
            stored,
            ids,
            graph.constant(scales),
            domain=_OPERATOR_DOMAIN,
            bits=4,
            block_size=_BLOCK_SIZE,
            gather_axis=0,
            quantize_axis=1,
        )

    def suits(self, rows: int, columns: int) -> bool:
        return rows % 2 == columns % 2 == 0  # each byte holds two numbers of a row

    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        blocks = -(-columns // _BLOCK_SIZE)
        return rows * blocks * (_BLOCK_SIZE // 2 + 4) + 4 * rows * bias

    def table_bytes(self, rows: int, columns: int) -> int:
        return rows * (columns // 2) + 4 * rows * -(-columns // _BLOCK_SIZE)


def _packed_integers(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a matrix to 4-bit integers and pack two of them into each byte.

    Returns the bytes (rows, padded columns / 2) and the scales (rows, groups of 32 columns). The first integer of each
    pair is in the low bits.
    """
    import numpy as np

    from nas.compression.rounding import SMALLEST_SCALE

    rows, columns = matrix.shape
    blocks = np.pad(matrix, ((0, 0), (0, -columns % _BLOCK_SIZE))).reshape(rows, -1, _BLOCK_SIZE)
    scale = np.maximum(np.abs(blocks).max(axis=2, keepdims=True), SMALLEST_SCALE * _INT4_LEVELS) / _INT4_LEVELS
    integers = (np.round(blocks / scale).astype(np.int8) + _STORED_ZERO).astype(np.uint8).reshape(rows, -1)
    return integers[:, 0::2] | (integers[:, 1::2] << 4), scale[:, :, 0].astype(np.float32)
