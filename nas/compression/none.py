"""`none`: no compression. Weights are stored in 32-bit floating point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.compression.base import BLOCKS, Format

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.compression.base import Arrays, Matrices, Store
    from nas.graph import GraphBuilder


class NoCompression(Format):
    """Weights are stored in 32-bit floating point."""

    name = "none"
    examples = ("none",)
    blocks = frozenset(BLOCKS)

    def apply(self, quantised: torch.Tensor, prepared: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(quantised, prepared["weight"], bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        from torch.nn import functional

        return functional.embedding(ids, matrices["weight"])

    def emit_linear(
        self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None, store: Store | None = None
    ) -> str:
        product = graph.add("MatMul", x, (store or graph.constant)(matrices["weight"].T))
        return product if bias is None else graph.add("Add", product, graph.constant(bias))

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        return graph.add("Gather", graph.constant(matrices["weight"]), ids, axis=0)

    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        return 4 * (rows * columns + rows * bias)

    def table_bytes(self, rows: int, columns: int) -> int:
        return 4 * rows * columns
