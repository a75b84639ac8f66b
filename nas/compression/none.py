"""`none`: the block stays as it is, in 32-bit floating point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.compression.base import BLOCKS, Compression

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.graph import GraphBuilder


class NoCompression(Compression):
    """The identity among the choices."""

    name = "none"
    blocks = frozenset(BLOCKS)
    runtimes = frozenset({"torch", "onnxruntime"})

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(x, weight, bias)

    def embed(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.embedding(ids, table)

    def emit_linear(self, graph: GraphBuilder, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        product = graph.add("MatMul", x, graph.constant(weight.T))
        return graph.add("Add", product, graph.constant(bias))

    def emit_embed(self, graph: GraphBuilder, ids: str, table: np.ndarray) -> str:
        return graph.add("Gather", graph.constant(table), ids, axis=0)

    def linear_bytes(self, rows: int, columns: int) -> int:
        return 4 * (rows * columns + rows)

    def table_bytes(self, rows: int, columns: int) -> int:
        return 4 * rows * columns
