"""The interface of compression methods, which define how one block of a network is stored and computed.

Each method is a subclass of `Compression` in its own file and has an entry in the registry. In a search space, a method
is written as `name` or `name(parameter)`. If the matrices of the method can be stored in a `Format`, it can also be
written as `name(parameter)+format`. Torch and ONNX are imported only inside functions, so that a study can be read and
checked without importing them.

A `MatrixCompression` is implemented in torch and in ONNX, and both implementations must compute the same function. The
torch implementation is differentiable, and its results have the data type of its inputs. The supernet, the extracted
sub-network and the modelling file of an export use the torch implementation. The ONNX implementation writes the graph
that a runtime executes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from nas.runtimes import RUNTIMES, Operation, runtimes_for

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.graph import GraphBuilder

    Matrices = Mapping[str, torch.Tensor]
    Arrays = Mapping[str, np.ndarray]
    Store = Callable[[np.ndarray], str]

Block = Literal["embedding", "attention", "feed_forward"]
BLOCKS: tuple[Block, ...] = ("embedding", "attention", "feed_forward")
INPUT_RANGE = "input_range"
"""The key under which the arrays of a calibrated layer contain the range of the layer's inputs."""


class Compression(ABC):
    """A compression method for one block of a network. Instances are immutable."""

    name: ClassVar[str]
    """The name of the method in search spaces and architectures."""

    examples: ClassVar[tuple[str, ...]]
    """Valid strings for the method, such as `low_rank(4)`. The contract tests combine each string with every number
    format in which the method can store its matrices.
    """

    blocks: ClassVar[frozenset[Block]]
    """The kinds of block to which the method can be applied."""

    weights: ClassVar[Literal["own", "below", "none"]] = "own"
    """The weights that the block uses. "own": the block has its own weights. "below": the block uses the weights of a
    lower layer's block of the same kind. "none": the block has no weights, because it is left out. In the last two
    cases, the size of the block in an architecture is 0 (no heads or no neurons).
    """

    calibrated: ClassVar[bool] = False
    """Whether exported layers quantise their inputs with fixed ranges. This is true only for `Calibrated` methods."""

    @classmethod
    def takes(cls, stored: type[Format]) -> bool:
        """Whether the matrices of this method can be stored in the number format `stored`."""
        return False

    @classmethod
    def read(cls, parameter: str | None, stored: Format | None) -> Self:
        """Return the method with the given parameter and number format.

        `parameter` is the text in parentheses in the method's string, such as `64` in `low_rank(64)`; None if there is
        none. `stored` is a number format for which `takes` returns True, or None. Raises `ValueError` if the parameter
        is invalid. The message states the rule, the value and a remedy.
        """
        if parameter is not None:
            raise ValueError(f"{cls.name} accepts no parameter, but got {parameter!r}; write {cls.name}")
        return cls()

    @property
    def spec(self) -> str:
        """The string for this method, with its parameter and number format. Methods with equal strings are equal."""
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compression) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    @property
    def names(self) -> frozenset[str]:
        """The names in `spec`: the name of the method and, if `spec` has a number format, the name of the format."""
        return frozenset({self.name})

    @property
    def operations(self) -> frozenset[Operation]:
        """The operations that a block with this method needs, in addition to those of an uncompressed block."""
        return frozenset()

    @property
    def runtimes(self) -> list[str]:
        """The runtimes that can execute a block that is compressed with this method."""
        return runtimes_for(self.operations)

    def runs_on(self, runtime: str, processor: str) -> bool:
        """Whether this runtime can execute a block with this method on this processor."""
        return RUNTIMES[runtime].executes(self.operations, processor)

    def quantises_by_batch(self, block: Block) -> bool:
        """Whether an exported block of this kind quantises its inputs with a single scale for all texts in a batch."""
        return False

    def suits(self, rows: int, columns: int) -> bool:
        """Whether the method can be applied to (rows, columns) and (columns, rows) matrices and is useful for them."""
        return True


class MatrixCompression(Compression):
    """A compression method that stores the weights of a block as one or more matrices.

    In a linear layer, the matrices of the method replace the weight (rows, columns), and the layer keeps its `bias`
    (rows,). In an embedding, the matrices of the method replace the table (rows, columns). A subclass must implement
    the methods that compute with embedding tables only if `blocks` contains "embedding".

    Each output of a linear layer depends on only one row of the matrix that `writes` names. The rows of this matrix can
    therefore be scaled, split, or joined with the rows of other layers.
    """

    reads: ClassVar[str] = "weight"
    """The name of the matrix whose columns correspond to a layer's inputs or a table's features."""

    writes: ClassVar[str] = "weight"
    """The name of the matrix whose rows correspond to a layer's outputs or a table's rows."""

    def matrices(self, rows: int, columns: int) -> dict[str, tuple[int, int]]:
        """Return the shapes of the matrices that replace a weight (rows, columns), keyed by matrix name.

        Matrices for a smaller layer consist of the first rows and columns of the matrices for a larger layer. The same
        holds for a smaller parameter of the method, such as a lower rank.
        """
        return {"weight": (rows, columns)}

    def start_linear(self, weight: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return initial values for all matrices except `weight`, computed from a trained linear layer.

        The result is keyed by matrix name. `weight` is the weight of the layer, (rows, columns). `outputs` is the
        second-moment matrix of the layer's outputs before the bias is added, (rows, rows).
        """
        return {}

    def start_table(self, table: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return initial values for all matrices except `weight`, computed from a trained embedding table.

        The result is keyed by matrix name. `table` is the embedding table, (rows, columns). `outputs` is the
        second-moment matrix of the embeddings that texts look up, (columns, columns).
        """
        return {}

    @property
    def plain(self) -> MatrixCompression:
        """The method that uses the same matrices without quantising or pruning them."""
        return self

    def prepared(self, matrices: Matrices) -> Matrices:
        """Return the matrices as `apply` needs them, for example quantised or pruned."""
        return matrices

    def quantised_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs (batch, sequence, in) of a linear layer as `apply` needs them, for example quantised."""
        return x

    def quantised_within(self, x: torch.Tensor, input_range: torch.Tensor) -> torch.Tensor:
        """Return the inputs (batch, sequence, in) of a linear layer, quantised with the range `input_range` (2,).

        Only `Calibrated` methods support this.
        """
        raise NotImplementedError(f"{self.name} does not support calibrated ranges")

    @abstractmethod
    def apply(self, quantised: torch.Tensor, prepared: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the output (batch, sequence, out) of a linear layer.

        `quantised` and `prepared` are results of the methods `quantised_inputs` and `prepared`.
        """

    def linear(self, x: torch.Tensor, matrices: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the output (batch, sequence, out) of a linear layer for inputs `x` (batch, sequence, in).

        This method calls `quantised_inputs` and `prepared`, and then `apply`.
        """
        return self.apply(self.quantised_inputs(x), self.prepared(matrices), bias)

    def embed(self, ids: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        """Return the embeddings (batch, sequence, columns) of token ids `ids` (batch, sequence)."""
        raise NotImplementedError(f"{self.name} does not support embedding tables")

    @abstractmethod
    def emit_linear(self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None) -> str:
        """Add a linear layer with the input value `x` to the ONNX graph, and return the name of its output value.

        For a calibrated layer, `matrices` has the additional entry `INPUT_RANGE`. If a `Calibrated` method receives no
        such entry, the graph is used only to measure latency, so any range may be written.
        """

    def emit_linears(
        self, graph: GraphBuilder, x: str, layers: Sequence[tuple[Arrays, np.ndarray | None]]
    ) -> list[str]:
        """Add linear layers of equal size to the ONNX graph, and return the names of their output values.

        The names are in the order of the layers. All layers have the input value `x`. By default, one matrix product
        computes all layers: its matrix consists of the rows of all layers.
        """
        import numpy as np

        joint = {self.writes: np.concatenate([matrices[self.writes] for matrices, _ in layers])}
        biases = [bias for _, bias in layers if bias is not None]
        product = self.emit_linear(graph, x, joint, np.concatenate(biases) if biases else None)
        return graph.add_many("Split", len(layers), product, axis=-1, num_outputs=len(layers))

    def emit_embed(self, graph: GraphBuilder, ids: str, matrices: Arrays) -> str:
        """Add an embedding look-up of the value `ids` to the ONNX graph, and return the name of its output value."""
        raise NotImplementedError(f"{self.name} does not support embedding tables")

    @abstractmethod
    def linear_bytes(self, rows: int, columns: int, bias: bool = True) -> int:
        """Return the size of a linear layer in an export, in bytes."""

    def table_bytes(self, rows: int, columns: int) -> int:
        """Return the size of an embedding table in an export, in bytes."""
        raise NotImplementedError(f"{self.name} does not support embedding tables")


class Calibrated(MatrixCompression):
    """A method whose exported layers quantise their inputs with a fixed range of values (static quantisation).

    When a network is exported, its ranges are computed from texts (`nas.model.calibration`) and stored in the
    network. Before that, for example in the supernet, each batch is quantised with its own range, as if the network had
    been calibrated on that batch.
    """

    calibrated = True

    @abstractmethod
    def range_of(self, extremes: torch.Tensor) -> torch.Tensor:
        """Return the lower and the upper limit of a layer's inputs, as a tensor of shape (2,).

        `extremes` (texts, 2) holds the lowest and the highest value of the inputs of each text, in float32.
        """

    @abstractmethod
    def quantised_within(self, x: torch.Tensor, input_range: torch.Tensor) -> torch.Tensor: ...

    def quantised_inputs(self, x: torch.Tensor) -> torch.Tensor:
        return self.quantised_within(x, self.range_of(text_extremes(x)))

    def linear(self, x: torch.Tensor, matrices: Matrices, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the output of a linear layer whose inputs are quantised with a range.

        The range is the one in `matrices` or, if `matrices` has no range, the range of `x`.
        """
        if INPUT_RANGE not in matrices:
            return super().linear(x, matrices, bias)
        return self.apply(self.quantised_within(x, matrices[INPUT_RANGE]), self.prepared(matrices), bias)


def text_extremes(x: torch.Tensor) -> torch.Tensor:
    """Return the lowest and the highest value of each text, in float32 and with the shape (texts, 2).

    `x` has the shape (texts, tokens, features).
    """
    import torch

    exact = x.detach().float()
    return torch.stack([exact.amin(dim=(1, 2)), exact.amax(dim=(1, 2))], dim=1)


class Format(MatrixCompression):
    """A number format for a single matrix named `weight`.

    Subclasses of `Stored` can store each of their matrices in such a format.
    """

    stores_zeros: ClassVar[bool] = True
    """Whether an export can leave out zeros. This is possible only if every number is stored separately and if zero is
    stored as zero.
    """

    @abstractmethod
    def emit_linear(
        self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None, store: Store | None = None
    ) -> str:
        """Add a linear layer with the input value `x` to the ONNX graph, and return the name of its output value.

        `store` is a function that adds the matrix, converted to this number format, to the graph and returns the name
        of the matrix in the graph. The default is `graph.constant`.
        """


class Stored(MatrixCompression):
    """A compression method that defines only the structure of the matrices, such as low rank.

    The number format of the matrices is `stored`.
    """

    def __init__(self, stored: Format) -> None:
        self.stored = stored

    @classmethod
    def takes(cls, stored: type[Format]) -> bool:
        return True

    @property
    @abstractmethod
    def form(self) -> str:
        """The string for this method without the number format: the name and the parameter."""

    @property
    def spec(self) -> str:
        return self.form if self.stored.name == "none" else f"{self.form}+{self.stored.spec}"

    @property
    def operations(self) -> frozenset[Operation]:
        return self.stored.operations

    def quantises_by_batch(self, block: Block) -> bool:
        return self.stored.quantises_by_batch(block)

    def suits(self, rows: int, columns: int) -> bool:
        """Whether this method stores a (rows, columns) matrix in fewer bytes than the number format alone does."""
        own_bytes, format_bytes = (choice.linear_bytes(rows, columns, bias=False) for choice in (self, self.stored))
        return own_bytes < format_bytes

    @property
    def names(self) -> frozenset[str]:
        return super().names if self.stored.name == "none" else super().names | self.stored.names
