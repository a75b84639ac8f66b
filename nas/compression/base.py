"""The contract of a compression method, which defines how one block of a network is stored and computed.

Each method is a subclass of `Compression` in its own file, with one line in the registry. In a search space, it is
written as `name`, `name(parameter)` or, if its matrices can be stored in a `Format`, `name(parameter)+format`. Torch
and ONNX are imported only inside functions, so that a study can be read and checked without importing either of them.

A `MatrixCompression` has a torch version and an ONNX version, and both must compute the same function. The torch
version is differentiable, and its results have the data type of its inputs. The supernet, the extracted model and the
modelling file of an export all use the torch version. The ONNX version (`emit_linear` and so on) writes the graph that
a runtime executes.
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
    """A compression method for one block, as an immutable value."""

    name: ClassVar[str]
    """The name of the method in search spaces and architectures."""

    examples: ClassVar[tuple[str, ...]]
    """Valid ways to write the method, including any parameters. The contract tests combine each of them with every
    format in which the method can store its matrices.
    """

    blocks: ClassVar[frozenset[Block]]
    """The kinds of block to which the method applies."""

    weights: ClassVar[Literal["own", "below", "none"]] = "own"
    """Which weights the block uses: its own, those of the block of the same kind in a layer below, or none. A block
    without weights of its own has size 0 in an architecture: no heads or no neurons.
    """

    @classmethod
    def takes(cls, stored: type[Format]) -> bool:
        """Whether the matrices of this method can be stored in the format `stored`."""
        return False

    @classmethod
    def read(cls, parameter: str | None, stored: Format | None) -> Self:
        """Return the method with this parameter and, if `stored` is not None, this format for its matrices.

        The format must be one that `takes` accepts. Raises `ValueError` if the parameter is invalid. The message
        states the rule, the value and a remedy.
        """
        if parameter is not None:
            raise ValueError(f"{cls.name} accepts no parameter, but got {parameter!r}; write {cls.name}")
        return cls()

    @property
    def spec(self) -> str:
        """The method as a string, including parameter and format. Methods with the same string are equal."""
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compression) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    @property
    def names(self) -> frozenset[str]:
        """The names that occur in `spec`: the name of the method and, if it has a format, the name of the format."""
        return frozenset({self.name})

    @property
    @abstractmethod
    def runtimes(self) -> frozenset[str]:
        """The runtimes that can execute the method in its compressed form."""

    @property
    def processors(self) -> frozenset[str]:
        """The processors on which the runtimes in `runtimes` can execute the method."""
        return frozenset({"cpu", "cuda"})

    def runs_on(self, runtime: str, processor: str) -> bool:
        """Whether this runtime can execute the method on this processor."""
        return runtime in self.runtimes and processor in self.processors

    def quantises_by_batch(self, block: Block) -> bool:
        """Whether an exported block of this kind quantises its inputs with one scale for all texts of a batch."""
        return False

    def suits(self, rows: int, columns: int) -> bool:
        """Whether the method is applicable and useful for a (rows, columns) matrix and for a (columns, rows) matrix."""
        return True


class MatrixCompression(Compression):
    """A compression method for the matrices of a block that has weights of its own.

    In a linear layer, the matrices of the method replace the weight of shape (rows, columns), and the layer keeps its
    `bias` of shape (rows,). In an embedding, they replace the table of shape (rows, columns). A subclass must implement
    the methods for embedding tables only if "embedding" is among its `blocks`.

    Each output of a linear layer depends on only one row of the matrix that `writes` names. The rows of this matrix can
    therefore be scaled, split, or joined with the rows of other layers.
    """

    reads: ClassVar[str] = "weight"
    """The name of the matrix whose columns correspond to the inputs of a layer (or the features of a table)."""

    writes: ClassVar[str] = "weight"
    """The name of the matrix whose rows correspond to the outputs of a layer (or the rows of a table)."""

    def matrices(self, rows: int, columns: int) -> dict[str, tuple[int, int]]:
        """Return the names and shapes of the matrices that replace a weight of shape (rows, columns).

        For a smaller layer, or a smaller parameter such as a lower rank, each matrix is the leading part of the matrix
        for the larger layer or parameter.
        """
        return {"weight": (rows, columns)}

    def start_linear(self, weight: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute initial values for all matrices except `weight` from a trained layer. Returns them keyed by name.

        `weight` is (rows, columns). `outputs` (rows, rows) is the second moment of the layer's outputs before the bias
        is added.
        """
        return {}

    def start_table(self, table: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute initial values for all matrices except `weight` from a trained table. Returns them keyed by name.

        `table` is (rows, columns). `outputs` (columns, columns) is the second moment of the rows that texts look up.
        """
        return {}

    @property
    def plain(self) -> MatrixCompression:
        """The method that uses the same matrices as this one, but neither quantises nor prunes them."""
        return self

    def prepared(self, matrices: Matrices) -> Matrices:
        """Return the matrices as the computation uses them, for example quantised or pruned."""
        return matrices

    def quantised_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs (batch, sequence, in) as a linear layer multiplies them, for example quantised."""
        return x

    @abstractmethod
    def apply(self, quantised: torch.Tensor, prepared: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        """Apply a linear layer to results of `quantised_inputs` and `prepared`. Returns (batch, sequence, out)."""

    def linear(self, x: torch.Tensor, matrices: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        """Apply a linear layer to raw inputs (batch, sequence, in) and raw matrices. Returns (batch, sequence, out)."""
        return self.apply(self.quantised_inputs(x), self.prepared(matrices), bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        """Look up `ids` of shape (batch, sequence) in an embedding table. Returns (batch, sequence, columns)."""
        raise NotImplementedError(f"{self.name} does not support embedding tables")

    @abstractmethod
    def emit_linear(self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None) -> str:
        """Write a linear layer with the input value `x` to the ONNX graph. Returns the name of the output value."""

    def emit_linears(
        self, graph: GraphBuilder, x: str, layers: Sequence[tuple[Arrays, np.ndarray | None]]
    ) -> list[str]:
        """Write several linear layers of equal size, all with the input value `x`, to the ONNX graph.

        Returns the names of their output values, in order. By default, one matrix product computes all layers: it uses
        a single matrix, in which the rows of all layers are joined.
        """
        import numpy as np

        joint = {self.writes: np.concatenate([matrices[self.writes] for matrices, _ in layers])}
        biases = [bias for _, bias in layers if bias is not None]
        product = self.emit_linear(graph, x, joint, np.concatenate(biases) if biases else None)
        return graph.add_many("Split", len(layers), product, axis=-1, num_outputs=len(layers))

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        """Write a table look-up with the input value `ids` to the ONNX graph. Returns the name of the output value."""
        raise NotImplementedError(f"{self.name} does not support embedding tables")

    @abstractmethod
    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        """Return the stored size of a linear layer in bytes."""

    def table_bytes(self, rows: int, columns: int) -> int:
        """Return the stored size of an embedding table in bytes."""
        raise NotImplementedError(f"{self.name} does not support embedding tables")


class Format(MatrixCompression):
    """A number format for a single matrix, `weight`, without parameters. Subclasses of `Stored` can also use it."""

    stores_zeros: ClassVar[bool] = True
    """Whether each number is stored separately and zero is stored as zero, so that an export can leave zeros out."""

    @abstractmethod
    def emit_linear(
        self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None, store: Store | None = None
    ) -> str:
        """Write a linear layer with the input value `x` to the ONNX graph. Returns the name of the output value.

        `store` is the function that writes the matrix in this number format into the graph and returns the name of its
        value. The default is `graph.constant`.
        """


class Stored(MatrixCompression):
    """A method that defines which matrices there are, but leaves their number format to `stored`."""

    def __init__(self, stored: Format) -> None:
        self.stored = stored

    @classmethod
    def takes(cls, stored: type[Format]) -> bool:
        return True

    @property
    @abstractmethod
    def form(self) -> str:
        """The method as a string, with its name and parameter but without the format."""

    @property
    def spec(self) -> str:
        return self.form if self.stored.name == "none" else f"{self.form}+{self.stored.spec}"

    @property
    def runtimes(self) -> frozenset[str]:
        return self.stored.runtimes

    @property
    def processors(self) -> frozenset[str]:
        return self.stored.processors

    def quantises_by_batch(self, block: Block) -> bool:
        return self.stored.quantises_by_batch(block)

    def suits(self, rows: int, columns: int) -> bool:
        """Whether this method takes fewer bytes than its storage format would take without the method."""
        own_bytes, format_bytes = (choice.linear_bytes(rows, columns, bias=False) for choice in (self, self.stored))
        return own_bytes < format_bytes

    @property
    def names(self) -> frozenset[str]:
        return super().names if self.stored.name == "none" else super().names | self.stored.names
