"""`low_rank(r)`: a weight is replaced by the product of two matrices, `left` (rows, r) and `right` (r, columns).

Initially, the product equals the weight, projected onto the r leading eigenvectors of the second-moment matrix of the
layer's outputs. Among all weights of rank r, this product has the smallest squared output error on real activations.
DRONE (Chen et al., 2021) minimises the same error, but computes the matrices from the layer's inputs. A smaller rank
uses the first eigenvectors of a larger rank, so all ranks can share their weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from nas.compression.base import BLOCKS, Block, Format, MatrixCompression, Stored
from nas.compression.none import NoCompression

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from nas.compression.base import Arrays, Matrices
    from nas.graph import GraphBuilder


class LowRank(Stored):
    """Each weight is replaced by the product of two smaller matrices."""

    name = "low_rank"
    examples = ("low_rank(4)", "low_rank(6)")
    blocks = frozenset(BLOCKS)
    reads, writes = "right", "left"

    def __init__(self, rank: int, stored: Format) -> None:
        super().__init__(stored)
        self.rank = rank

    @classmethod
    def read(cls, parameter: str | None, stored: Format | None) -> Self:
        if parameter is None or not parameter.isdecimal() or int(parameter) < 1:
            raise ValueError(
                f"low_rank needs a rank of at least 1, such as low_rank(64), but got {parameter or ''!r}; "
                "write a whole number above 0"
            )
        return cls(int(parameter), stored or NoCompression())

    @property
    def form(self) -> str:
        return f"low_rank({self.rank})"

    def quantises_by_batch(self, block: Block) -> bool:
        return self.stored.quantises_by_batch("feed_forward")  # looked-up rows of `left` are multiplied by `right`

    @property
    def plain(self) -> MatrixCompression:
        return LowRank(self.rank, NoCompression())

    def suits(self, rows: int, columns: int) -> bool:
        return (
            super().suits(rows, columns)
            and self.stored.suits(rows, self.rank)
            and self.stored.suits(self.rank, columns)
        )

    def matrices(self, rows: int, columns: int) -> dict[str, tuple[int, int]]:
        return {"left": (rows, self.rank), "right": (self.rank, columns)}

    def start_linear(self, weight: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        directions = self._leading_directions(outputs).to(weight.dtype)
        return {"left": directions, "right": directions.T @ weight}

    def start_table(self, table: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        directions = self._leading_directions(outputs).to(table.dtype)
        return {"left": table @ directions, "right": directions.T}

    def _leading_directions(self, moment: torch.Tensor) -> torch.Tensor:
        """Return the eigenvectors of `moment` with the `rank` largest eigenvalues, as columns in descending order."""
        import torch

        vectors: torch.Tensor = torch.linalg.eigh(moment).eigenvectors
        return vectors.flip(1)[:, : self.rank]

    def prepared(self, matrices: Matrices) -> Matrices:
        return {name: self.stored.prepared({"weight": matrix})["weight"] for name, matrix in matrices.items()}

    def quantised_inputs(self, x: torch.Tensor) -> torch.Tensor:
        return self.stored.quantised_inputs(x)

    def apply(self, quantised: torch.Tensor, prepared: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        inner = self.stored.apply(quantised, {"weight": prepared["right"]}, None)
        return self.stored.apply(self.stored.quantised_inputs(inner), {"weight": prepared["left"]}, bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        inner = self.stored.embed(ids, {"weight": matrices["left"]})
        return self.stored.linear(inner, {"weight": matrices["right"].T}, None)

    def emit_linear(self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None) -> str:
        return self.emit_linears(graph, x, [(matrices, bias)])[0]

    def emit_linears(
        self, graph: GraphBuilder, x: str, layers: Sequence[tuple[Arrays, np.ndarray | None]]
    ) -> list[str]:
        inner = self.stored.emit_linears(graph, x, [({"weight": matrices["right"]}, None) for matrices, _ in layers])
        return [
            self.stored.emit_linear(graph, value, {"weight": matrices["left"]}, bias)
            for value, (matrices, bias) in zip(inner, layers, strict=True)
        ]

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        inner = self.stored.emit_embed(graph, ids, {"weight": matrices["left"]})
        return self.stored.emit_linear(graph, inner, {"weight": matrices["right"].T}, None)

    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        inner = self.stored.linear_bytes(self.rank, columns, bias=False)
        return inner + self.stored.linear_bytes(rows, self.rank, bias)

    def table_bytes(self, rows: int, columns: int) -> int:
        return self.stored.table_bytes(rows, self.rank) + self.stored.linear_bytes(columns, self.rank, bias=False)
