"""The contract of a compression choice: what is done to the matrices of one block.

A choice is one file with one subclass and one line in the registry. Torch and ONNX are only touched inside
the methods, so that a study can be read and checked without either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.graph import GraphBuilder

Block = Literal["embedding", "attention", "feed_forward"]
BLOCKS: tuple[Block, ...] = ("embedding", "attention", "feed_forward")


class Compression(ABC):
    """One compression choice, stateless.

    A linear layer has a `weight` of shape (out, in) and a `bias` of shape (out,), as in torch. The torch
    methods are differentiable and serve the supernet and the extracted model alike; the ONNX methods write
    what a runtime executes. Both must compute the same function.
    """

    name: ClassVar[str]
    """The word that stands for it in search spaces and architectures."""

    blocks: ClassVar[frozenset[Block]]
    """The blocks that it applies to."""

    runtimes: ClassVar[frozenset[str]]
    """The runtimes that can execute it in its compressed form."""

    @abstractmethod
    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Apply a linear layer to `x` of shape (batch, sequence, in); returns (batch, sequence, out)."""

    @abstractmethod
    def embed(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Look up `ids` of shape (batch, sequence) in `table` (rows, columns)."""

    @abstractmethod
    def emit_linear(self, graph: GraphBuilder, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """Write a linear layer to ONNX; takes and returns the name of a value."""

    @abstractmethod
    def emit_embed(self, graph: GraphBuilder, ids: str, table: np.ndarray) -> str:
        """Write a table look-up to ONNX; takes and returns the name of a value."""

    @abstractmethod
    def linear_bytes(self, rows: int, columns: int) -> int:
        """Stored bytes of a weight of shape (rows, columns) with its bias of `rows` numbers."""

    @abstractmethod
    def table_bytes(self, rows: int, columns: int) -> int:
        """Stored bytes of an embedding table of shape (rows, columns)."""
