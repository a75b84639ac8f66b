"""Parameters and stored bytes of a sub-network, from its architecture and the teacher's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.compression import MatrixCompression, compression, matrix_compression
from nas.model.configuration import CompactBertConfig

MB = 1e6


def count_parameters(config: CompactBertConfig, architecture: Architecture | None = None) -> int:
    """The exact number of parameters of the extracted model.

    With an `architecture` of a model that is otherwise as `config` says: building a configuration for each takes ten
    times as long.
    """
    given = architecture or config.architecture
    width = _table_width(config, given)
    total = _numbers(matrix_compression(given.embedding).matrices(config.vocab_size, width))
    total += (config.max_position_embeddings + config.type_vocab_size) * width + _uncompressed(config, given)
    for choice, rows, columns in _linears(config, given):
        total += _numbers(choice.matrices(rows, columns)) + rows
    return total


def stored_mb(config: CompactBertConfig, architecture: Architecture | None = None) -> float:
    """Megabytes (10^6 bytes) of the weights as an export stores them, compressed blocks counted as such.

    `architecture`: see `count_parameters`.
    """
    given = architecture or config.architecture
    width = _table_width(config, given)
    types = config.type_vocab_size if config.type_vocab_size > 1 else 0  # a single type lies in the positions
    exact = (config.max_position_embeddings + types) * width + _uncompressed(config, given)
    table = matrix_compression(given.embedding).table_bytes(config.vocab_size, width)
    linears = sum(choice.linear_bytes(rows, columns) for choice, rows, columns in _linears(config, given))
    return (4 * exact + table + linears) / MB


def _uncompressed(config: CompactBertConfig, architecture: Architecture) -> int:
    """Parameters that no compression choice concerns: norms, projection, pooler and classifiers."""
    hidden, outputs = architecture.hidden_size, config.outputs
    choices = (compression(getattr(layer, block)) for layer in architecture.layers for block in LAYER_BLOCKS)
    total = 2 * _table_width(config, architecture) + sum(2 * hidden for choice in choices if choice.weights != "none")
    if config.embedding_size:
        total += (config.embedding_size + 1) * hidden
    classifiers = len(architecture.layers) if architecture.exit_threshold else 1
    return total + (hidden + 1) * hidden + classifiers * (hidden + 1) * outputs


def _table_width(config: CompactBertConfig, architecture: Architecture) -> int:
    """The width of the embedding tables and their norm."""
    return config.embedding_size or architecture.hidden_size


def _linears(config: CompactBertConfig, architecture: Architecture) -> Iterator[tuple[MatrixCompression, int, int]]:
    """Choice, rows and columns of the linear layers in blocks that have weights of their own."""
    hidden, head_size = architecture.hidden_size, config.attention_head_size
    for layer in architecture.layers:
        attention, feed_forward = compression(layer.attention), compression(layer.feed_forward)
        width = layer.num_attention_heads * head_size
        if isinstance(attention, MatrixCompression):
            yield from [(attention, width, hidden)] * 3
            yield attention, hidden, width
        if isinstance(feed_forward, MatrixCompression):
            yield feed_forward, layer.intermediate_size, hidden
            yield feed_forward, hidden, layer.intermediate_size


def _numbers(shapes: Mapping[str, tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes.values())
