"""Parameters and stored bytes of a sub-network, from its architecture and the teacher's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from nas.architecture import Architecture
from nas.compression import Block, Compression, MatrixCompression, compression, matrix_compression
from nas.model.configuration import CompactBertConfig

MB = 1e6


def count_parameters(config: CompactBertConfig, architecture: Architecture | None = None) -> int:
    """The exact number of parameters of the extracted model.

    With an `architecture`, that of a model which is otherwise as `config` says: to build a configuration for each would
    take ten times as long.
    """
    given = architecture or config.architecture
    width = _table_width(config, given)
    total = _numbers(matrix_compression(given.embedding).matrices(config.vocab_size, width))
    total += (config.max_position_embeddings + config.type_vocab_size) * width + _uncompressed(config, given)
    return total + sum(block.parameters for block in _blocks(config, given))


def stored_mb(config: CompactBertConfig, architecture: Architecture | None = None) -> float:
    """Megabytes (10^6 bytes) of the weights as an export stores them, compressed blocks counted as such.

    `architecture`: see `count_parameters`.
    """
    given = architecture or config.architecture
    width = _table_width(config, given)
    types = config.type_vocab_size if config.type_vocab_size > 1 else 0  # a single type lies in the positions
    exact = (config.max_position_embeddings + types) * width + _uncompressed(config, given)
    table = matrix_compression(given.embedding).table_bytes(config.vocab_size, width)
    return (4 * exact + table + sum(block.stored_bytes for block in _blocks(config, given))) / MB


def _uncompressed(config: CompactBertConfig, architecture: Architecture) -> int:
    """Parameters that no compression choice concerns: norms, projection and head."""
    hidden = architecture.hidden_size
    total = 2 * _table_width(config, architecture) + sum(block.norm for block in _blocks(config, architecture))
    if config.embedding_size:
        total += (config.embedding_size + 1) * hidden
    pooler = 0 if config.pooler_act is None else (hidden + 1) * hidden
    classifiers = len(architecture.layers) if architecture.exit_threshold else 1
    return total + pooler + classifiers * (hidden + 1) * config.outputs


def _table_width(config: CompactBertConfig, architecture: Architecture) -> int:
    """The width of the embedding tables and their norm."""
    return config.embedding_size or architecture.hidden_size


class _Size(NamedTuple):
    """What a block of a layer comes to."""

    parameters: int = 0
    """Of its linear layers."""
    stored_bytes: int = 0
    """Of its linear layers."""
    norm: int = 0
    """Parameters of its norm."""


def _blocks(config: CompactBertConfig, architecture: Architecture) -> Iterator[_Size]:
    hidden, head_size = architecture.hidden_size, config.attention_head_size
    for layer in architecture.layers:
        yield _block("attention", compression(layer.attention), layer.num_attention_heads * head_size, hidden)
        yield _block("feed_forward", compression(layer.feed_forward), layer.intermediate_size, hidden)


@lru_cache(maxsize=4096)
def _block(block: Block, choice: Compression, width: int, hidden: int) -> _Size:
    """The size of a block whose linear layers are `width` wide inside; a search asks for the same ones again."""
    norm = 0 if choice.weights == "none" else 2 * hidden
    if not isinstance(choice, MatrixCompression):
        return _Size(norm=norm)
    inwards = 3 if block == "attention" else 1  # query, key and value
    linears = [(width, hidden)] * inwards + [(hidden, width)]
    parameters = sum(_numbers(choice.matrices(rows, columns)) + rows for rows, columns in linears)
    return _Size(parameters, sum(choice.linear_bytes(rows, columns) for rows, columns in linears), norm)


def _numbers(shapes: Mapping[str, tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes.values())
