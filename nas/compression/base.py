"""The contract of a compression choice: what is done to one block of a network.

A choice is one file with one subclass and one line in the registry. It is written as `name`, `name(parameter)` or,
where its matrices can be stored in a `Format`, `name(parameter)+format`. Torch and ONNX are only touched inside the
methods, so that a study can be read and checked without either.

Its torch methods are differentiable, return the number format that they are given, and serve the supernet, the
extracted model and the modelling file of an export alike; its ONNX methods write what a runtime executes. Both must
compute the same function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.graph import GraphBuilder

    Matrices = Mapping[str, torch.Tensor]
    Arrays = Mapping[str, np.ndarray]
    Store = Callable[[np.ndarray], str]

Block = Literal["embedding", "attention", "feed_forward"]
BLOCKS: tuple[Block, ...] = ("embedding", "attention", "feed_forward")


class Compression(ABC):
    """One compression choice, a value that never changes."""

    name: ClassVar[str]
    """The word that stands for it in search spaces and architectures."""

    examples: ClassVar[tuple[str, ...]]
    """How it is written, with parameters where it has some: what its contract suite is run with, in each format."""

    blocks: ClassVar[frozenset[Block]]
    """The blocks that it applies to."""

    weights: ClassVar[Literal["own", "below", "none"]] = "own"
    """Whose weights the block uses: its own, those of the same block in a layer below, or none at all. A block
    without weights of its own has no size either."""

    @classmethod
    def takes(cls, stored: type[Format]) -> bool:
        """Whether its matrices can be stored in that format."""
        return False

    @classmethod
    def read(cls, parameter: str | None, stored: Format | None) -> Self:
        """The choice with a parameter, stored in a format that it takes.

        Raises `ValueError` with rule, value and remedy for a parameter that it cannot have.
        """
        if parameter is not None:
            raise ValueError(f"{cls.name} takes no parameter, but got {parameter!r}; write {cls.name}")
        return cls()

    @property
    def spec(self) -> str:
        """How it is written, parameters included: choices written alike are equal."""
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compression) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    @property
    def names(self) -> frozenset[str]:
        """The names in its `spec`: its own and its format's."""
        return frozenset({self.name})

    @property
    @abstractmethod
    def runtimes(self) -> frozenset[str]:
        """The runtimes that can execute it in its compressed form."""

    @property
    def processors(self) -> frozenset[str]:
        """The processors that those runtimes can execute it on."""
        return frozenset({"cpu", "cuda"})

    def runs_on(self, runtime: str, processor: str) -> bool:
        """Whether that runtime can execute it on that processor."""
        return runtime in self.runtimes and processor in self.processors

    def rounds_by_batch(self, block: Block) -> bool:
        """Whether it rounds what such a block computes by the range of a whole batch, when it is served."""
        return False

    def suits(self, rows: int, columns: int) -> bool:
        """Whether it makes sense for matrices of this size, or of the transposed one."""
        return True


class MatrixCompression(Compression):
    """A choice for the matrices of a block that has weights of its own.

    A linear layer is `bias` of shape (rows,) and matrices in place of a weight of shape (rows, columns), as in torch;
    so is an embedding table, without bias. The methods for tables are for those with embeddings among their blocks.

    A row of what comes out depends on the same row of `writes` only, so that rows can be joined, split and scaled.
    """

    reads: ClassVar[str] = "weight"
    """The matrix whose columns are the layer's inputs (or a table's features)."""

    writes: ClassVar[str] = "weight"
    """The matrix whose rows are the layer's outputs (or a table's rows)."""

    def matrices(self, rows: int, columns: int) -> dict[str, tuple[int, int]]:
        """Names and shapes of what stands for a weight of shape (rows, columns).

        A smaller layer has the leading part of each matrix of a larger one, and a smaller parameter that of a larger.
        """
        return {"weight": (rows, columns)}

    def start_linear(self, weight: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Values for its matrices but `weight` that a trained layer starts from.

        `weight` is (rows, columns); `outputs` (rows, rows) is the second moment of the layer's outputs without bias.
        """
        return {}

    def start_table(self, table: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The same for a table (rows, columns); `outputs` (columns, columns) is that of the rows looked up."""
        return {}

    @property
    def plain(self) -> MatrixCompression:
        """The same matrices, nothing rounded and nothing set to zero."""
        return self

    def settled(self, matrices: Matrices) -> Matrices:
        """The matrices as they are computed with: rounded, or with zeros set, as far as that depends on them alone."""
        return matrices

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """The inputs as a linear layer multiplies them, of the shape of `x`, (batch, sequence, in)."""
        return x

    @abstractmethod
    def apply(self, rounded: torch.Tensor, settled: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        """Apply a linear layer to rounded inputs, (batch, sequence, in); returns (batch, sequence, out)."""

    def linear(self, x: torch.Tensor, matrices: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        """The same from inputs that are not rounded and matrices that are not settled."""
        return self.apply(self.rounded(x), self.settled(matrices), bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        """Look up `ids` of shape (batch, sequence) in a table; returns (batch, sequence, columns)."""
        raise NotImplementedError(f"{self.name} has no tables")

    @abstractmethod
    def emit_linear(self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None) -> str:
        """Write a linear layer to ONNX; takes and returns the name of a value."""

    def emit_linears(
        self, graph: GraphBuilder, x: str, layers: Sequence[tuple[Arrays, np.ndarray | None]]
    ) -> list[str]:
        """Write several linear layers of one size and one input, here as one product of joined rows."""
        import numpy as np

        joint = {self.writes: np.concatenate([matrices[self.writes] for matrices, _ in layers])}
        biases = [bias for _, bias in layers if bias is not None]
        product = self.emit_linear(graph, x, joint, np.concatenate(biases) if biases else None)
        return graph.add_many("Split", len(layers), product, axis=-1, num_outputs=len(layers))

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        """Write a table look-up to ONNX; takes and returns the name of a value."""
        raise NotImplementedError(f"{self.name} has no tables")

    @abstractmethod
    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        """Stored bytes of a linear layer."""

    def table_bytes(self, rows: int, columns: int) -> int:
        """Stored bytes of an embedding table."""
        raise NotImplementedError(f"{self.name} has no tables")


class Format(MatrixCompression):
    """A choice for the numbers of one matrix, `weight`: those of a `Stored` can be in it too. It takes no parameter."""

    stores_zeros: ClassVar[bool] = True
    """Whether each number of a matrix is stored by itself, zero as zero, so that zeros can be left out."""

    @abstractmethod
    def emit_linear(
        self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None, store: Store | None = None
    ) -> str:
        """Write a linear layer to ONNX; takes and returns the name of a value.

        `store` writes the stored matrix into the graph and gives the name of its value; `graph.constant` by default.
        """


class Stored(MatrixCompression):
    """A choice of form: what its matrices are, while `stored` is the format of their numbers."""

    def __init__(self, stored: Format) -> None:
        self.stored = stored

    @classmethod
    def takes(cls, stored: type[Format]) -> bool:
        return True

    @property
    @abstractmethod
    def form(self) -> str:
        """Name and parameter."""

    @property
    def spec(self) -> str:
        return self.form if self.stored.name == "none" else f"{self.form}+{self.stored.spec}"

    @property
    def runtimes(self) -> frozenset[str]:
        return self.stored.runtimes

    @property
    def processors(self) -> frozenset[str]:
        return self.stored.processors

    def rounds_by_batch(self, block: Block) -> bool:
        return self.stored.rounds_by_batch(block)

    def suits(self, rows: int, columns: int) -> bool:
        """It must be smaller than its format alone."""
        own, alone = (choice.linear_bytes(rows, columns, bias=False) for choice in (self, self.stored))
        return own < alone

    @property
    def names(self) -> frozenset[str]:
        return super().names if self.stored.name == "none" else super().names | self.stored.names
