"""`sparse(s)` and `sparse(2:4)`: in each row, the weights with the smallest magnitudes are set to zero.

`sparse(0.5)` sets half of the weights in each row to zero. `sparse(2:4)` keeps the two largest of every four
neighbouring weights. An export stores the non-zero weights and one bit per weight, which says whether the weight is
non-zero. The runtime rebuilds the full matrix when it loads the file, so the method saves file size, but no time. In
training, zeroed weights also receive (straight-through) gradients, so they can become non-zero again. This is the
method of SR-STE (Zhou et al., arXiv:2102.04010) without its decay term.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from nas.compression.base import Format, MatrixCompression, Stored
from nas.compression.none import NoCompression

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.compression.base import Arrays, Matrices
    from nas.graph import GraphBuilder
    from nas.runtimes import Operation

_GROUP_SIZE, _KEPT = 4, 2


class Sparse(Stored):
    """The weights with the smallest magnitudes are set to zero and not stored."""

    name = "sparse"
    examples = ("sparse(0.5)", "sparse(0.75)", "sparse(2:4)")
    blocks = frozenset({"attention", "feed_forward"})

    def __init__(self, share: float | None, stored: Format) -> None:
        super().__init__(stored)
        self.share = share
        """The fraction of weights in each row that are set to zero; None for `sparse(2:4)`."""

    @classmethod
    def takes(cls, stored: type[Format]) -> bool:
        return stored.stores_zeros

    @classmethod
    def read(cls, parameter: str | None, stored: Format | None) -> Self:
        stored = stored or NoCompression()
        if parameter == f"{_KEPT}:{_GROUP_SIZE}":
            return cls(None, stored)
        try:
            share = float(parameter or "")
        except ValueError:
            share = 0.0
        if not 0.0 < share < 1.0:
            raise ValueError(
                "sparse needs a share of zeros between 0 and 1, such as sparse(0.5), or the pattern sparse(2:4), "
                f"but got {parameter or ''!r}; write one of these"
            )
        return cls(share, stored)

    @property
    def form(self) -> str:
        return f"sparse({_KEPT}:{_GROUP_SIZE})" if self.share is None else f"sparse({self.share:g})"

    @property
    def operations(self) -> frozenset[Operation]:
        return self.stored.operations | {"packed_weights"}

    @property
    def plain(self) -> MatrixCompression:
        return NoCompression()

    def suits(self, rows: int, columns: int) -> bool:
        return super().suits(rows, columns) and (
            self.share is not None or rows % _GROUP_SIZE == columns % _GROUP_SIZE == 0
        )

    def _kept_per_row(self, columns: int) -> int:
        columns = int(columns)  # a tensor in torch.jit.trace
        return columns * _KEPT // _GROUP_SIZE if self.share is None else max(1, round(columns * (1.0 - self.share)))

    def _pruned(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        from nas.compression.rounding import straight_through

        rows = weight.unflatten(-1, (-1, _GROUP_SIZE)) if self.share is None else weight
        count = _KEPT if self.share is None else self._kept_per_row(weight.shape[-1])
        largest = rows.detach().abs().topk(count, dim=-1).indices
        mask = torch.zeros_like(rows).scatter_(-1, largest, 1.0)
        return straight_through(weight, weight * mask.view_as(weight))

    def prepared(self, matrices: Matrices) -> Matrices:
        return self.stored.prepared({"weight": self._pruned(matrices["weight"])})

    def quantised_inputs(self, x: torch.Tensor) -> torch.Tensor:
        return self.stored.quantised_inputs(x)

    def apply(self, quantised: torch.Tensor, prepared: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        return self.stored.apply(quantised, prepared, bias)

    def emit_linear(self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None) -> str:
        import torch

        pruned = self._pruned(torch.from_numpy(matrices["weight"])).numpy()
        return self.stored.emit_linear(graph, x, {"weight": pruned}, bias, graph.sparse_constant)

    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        dense_bytes, kept_count = self.stored.linear_bytes(rows, columns, bias), rows * self._kept_per_row(columns)
        bytes_per_number = self.stored.linear_bytes(1, 2, bias) - self.stored.linear_bytes(1, 1, bias)
        return dense_bytes - bytes_per_number * (rows * columns - kept_count) + -(-rows * columns // 8)
