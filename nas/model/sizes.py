"""Parameter counts and stored sizes of sub-networks.

`Sizes` computes both from the axes of a network's parameters (`axes.py`) and the dimensions of an architecture, without
building the sub-network. The search uses the results for budgets on `params` and `size_mb`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from nas.architecture import LAYER_BLOCKS, Architecture, Layer
from nas.compression import Block, MatrixCompression, compression, matrix_compression
from nas.model.axes import Axis, labelled
from nas.model.configuration import CompactBertConfig
from nas.model.layers import BlockLinear, CompactBertLayer
from nas.model.modeling import CompactBert

MB = 1e6
_Extent = Axis | int
"""The extent of a parameter's axis: the kind of units along the axis, or a fixed length."""


def count_parameters(config: CompactBertConfig) -> int:
    """Return the exact number of parameters of the network that a configuration describes."""
    return Sizes(config).parameters(config.architecture)


def stored_mb(config: CompactBertConfig) -> float:
    """Return the size of the network's weights in an export, after compression, in megabytes (10^6 bytes)."""
    return Sizes(config).stored_mb(config.architecture)


class _Linear(NamedTuple):
    rows: _Extent
    columns: _Extent
    has_bias: bool


@dataclass(frozen=True)
class _BlockParameters:
    """The parameters of one block of a layer, grouped by how compression affects them."""

    linears: tuple[_Linear, ...]
    uncompressed: tuple[tuple[_Extent, ...], ...]
    """The extents of each parameter that no compression method affects, such as a position bias. A block that borrows
    its linear layers also borrows these parameters.
    """
    norm: tuple[tuple[_Extent, ...], ...]
    """The extents of each parameter of the norm. A block has its own norm even if it borrows its linear layers."""


class _Size(NamedTuple):
    """The number of parameters of a block, and the number of bytes that these parameters take in an export."""

    parameters: int
    stored_bytes: int


class Sizes:
    """A calculator of sizes for networks that differ from `config` only in their architecture."""

    def __init__(self, config: CompactBertConfig) -> None:
        self.config = config
        sources = sorted({layer.source for layer in config.architecture.layers})
        architecture = config.architecture
        layers = tuple(Layer(source, 1, 1) for source in sources)
        minimal = replace(architecture, layers=layers, embedding="none", exit_threshold=0.0)
        with torch.device("meta"):
            model = CompactBert(config.with_architecture(minimal))
        self._blocks = {
            (source, block): _block_parameters(layer, block)
            for source, layer in zip(sources, model.layers, strict=True)
            for block in LAYER_BLOCKS
        }
        layer_modules = {module for layer in model.layers for module in layer.modules()}
        token_embeddings = model.bert.embeddings.word_embeddings
        [self._table_extents] = _parameter_extents([token_embeddings])
        classifier = [model.classifier] if model.classifier is not None else []
        self._classifier_extents = _parameter_extents(classifier)
        type_embeddings = model.bert.embeddings.token_type_embeddings
        # An export does not store the embedding of a single token type, but adds it to the position embeddings.
        folded: list[nn.Module] = []
        if type_embeddings is not None and len(type_embeddings.weight) == 1 and config.position_table:
            folded.append(type_embeddings)
        self._folded_extents = _parameter_extents(folded)
        counted_separately = {token_embeddings, *classifier, *folded, *layer_modules}
        self._other_extents = _parameter_extents(
            module for module in model.modules() if module not in counted_separately
        )
        self._size_cache: dict[tuple[int, Block, int, str, int], _Size] = {}

    def parameters(self, architecture: Architecture) -> int:
        """Return the exact number of parameters of the network with this architecture."""
        table = _matrix_count(matrix_compression(architecture.embedding).matrices(*self._table_shape(architecture)))
        uncompressed = self._uncompressed_count(architecture)
        uncompressed += _count(self._folded_extents, self._outer_lengths(architecture))
        return table + uncompressed + sum(size.parameters for size in self._sizes(architecture))

    def stored_mb(self, architecture: Architecture) -> float:
        """Return the size of the weights in an export, after compression, in megabytes (10^6 bytes)."""
        table = matrix_compression(architecture.embedding).table_bytes(*self._table_shape(architecture))
        blocks = sum(size.stored_bytes for size in self._sizes(architecture))
        return (4 * self._uncompressed_count(architecture) + table + blocks) / MB

    def _uncompressed_count(self, architecture: Architecture) -> int:
        """Return the number of parameters outside the layers that an export stores without compression."""
        lengths = self._outer_lengths(architecture)
        classifiers = len(architecture.layers) if architecture.exit_threshold else 1
        return _count(self._other_extents, lengths) + classifiers * _count(self._classifier_extents, lengths)

    def _table_shape(self, architecture: Architecture) -> tuple[int, int]:
        lengths = self._outer_lengths(architecture)
        rows, columns = (_length(extent, lengths) for extent in self._table_extents)
        return rows, columns

    @staticmethod
    def _outer_lengths(architecture: Architecture) -> dict[Axis, int]:
        return {Axis.HIDDEN: architecture.hidden_size, Axis.POOLED: architecture.hidden_size}

    def _sizes(self, architecture: Architecture) -> Iterable[_Size]:
        for layer in architecture.layers:
            for block in LAYER_BLOCKS:
                size, choice = layer.option(block)
                key = layer.source, block, size, choice, architecture.hidden_size
                if key not in self._size_cache:
                    self._size_cache[key] = self._size(*key)
                yield self._size_cache[key]

    def _size(self, source: int, block: Block, size: int, choice: str, hidden: int) -> _Size:
        block_parameters, method = self._blocks[source, block], compression(choice)
        if method.weights == "none":
            return _Size(0, 0)
        lengths = {Axis.HIDDEN: hidden, Axis.HEADS: size, Axis.NEURONS: size}
        lengths[Axis.HEAD_FEATURES] = size * self.config.attention_head_size
        norm = _count(block_parameters.norm, lengths)
        if not isinstance(method, MatrixCompression):
            return _Size(norm, 4 * norm)
        uncompressed = norm + _count(block_parameters.uncompressed, lengths)
        parameters, stored = uncompressed, 4 * uncompressed
        for linear in block_parameters.linears:
            rows, columns = _length(linear.rows, lengths), _length(linear.columns, lengths)
            parameters += _matrix_count(method.matrices(rows, columns)) + rows * linear.has_bias
            stored += method.linear_bytes(rows, columns, linear.has_bias)
        return _Size(parameters, stored)


def _block_parameters(layer: CompactBertLayer, block: Block) -> _BlockParameters:
    """Return the parameters of one block of a layer. The layer must not be compressed."""
    parts: list[nn.Module] = [layer.attention] if block == "attention" else [layer.intermediate, layer.output]
    modules = [module for part in parts for module in part.modules()]
    linears = [module for module in modules if isinstance(module, BlockLinear)]
    norms = [module for module in modules if isinstance(module, nn.LayerNorm)]
    return _BlockParameters(
        tuple(_linear_extents(linear) for linear in linears),
        _parameter_extents(module for module in modules if module not in {*linears, *norms}),
        _parameter_extents(norms),
    )


def _linear_extents(linear: BlockLinear) -> _Linear:
    rows, columns = _parameter_extents([linear])[0]
    return _Linear(rows, columns, linear.bias is not None)


def _parameter_extents(modules: Iterable[nn.Module]) -> tuple[tuple[_Extent, ...], ...]:
    """Return the extents of each parameter of the modules. Parameters of their submodules are left out."""
    return tuple(
        tuple(length if axis is None else axis for axis, length in zip(axes, parameter.shape, strict=True))
        for module in modules
        for parameter, axes in labelled(module)
    )


def _length(extent: _Extent, lengths: Mapping[Axis, int]) -> int:
    return lengths[extent] if isinstance(extent, Axis) else extent


def _count(parameters: Iterable[tuple[_Extent, ...]], lengths: Mapping[Axis, int]) -> int:
    """Return the total number of values in parameters with these extents."""
    return sum(math.prod(_length(extent, lengths) for extent in extents) for extents in parameters)


def _matrix_count(shapes: Mapping[str, tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes.values())
