"""Parameters and stored bytes of a sub-network, from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nas.compression import MatrixCompression, compression, matrix_compression
from nas.model.configuration import CompactBertConfig

MB = 1e6


def count_parameters(config: CompactBertConfig) -> int:
    """The exact number of parameters of the extracted model."""
    hidden = config.hidden_size
    rows = config.max_position_embeddings + config.type_vocab_size
    table = matrix_compression(config.embedding).matrices(config.vocab_size, config.embedding_width)
    total = _numbers(table) + (rows + 2) * config.embedding_width + _projection(config) + _norms(config)
    for choice, rows, columns in _linears(config):
        total += _numbers(choice.matrices(rows, columns)) + rows
    return total + (hidden + 1) * hidden + (hidden + 1) * config.outputs + _exits(config)


def stored_mb(config: CompactBertConfig) -> float:
    """Megabytes (10^6 bytes) of the weights as an export stores them, compressed blocks counted as such."""
    hidden = config.hidden_size
    types = config.type_vocab_size if config.type_vocab_size > 1 else 0  # a single type lies in the positions
    exact = (config.max_position_embeddings + types + 2) * config.embedding_width + _projection(config)
    exact += _norms(config) + _exits(config) + (hidden + 1) * hidden + (hidden + 1) * config.outputs
    table = matrix_compression(config.embedding).table_bytes(config.vocab_size, config.embedding_width)
    return (
        4 * exact + table + sum(choice.linear_bytes(rows, columns) for choice, rows, columns in _linears(config))
    ) / MB


def _linears(config: CompactBertConfig) -> Iterator[tuple[MatrixCompression, int, int]]:
    """Choice, rows and columns of the linear layers in blocks that have weights of their own."""
    hidden = config.hidden_size
    for layer in config.architecture.layers:
        attention, feed_forward = compression(layer.attention), compression(layer.feed_forward)
        width = layer.num_attention_heads * config.attention_head_size
        if isinstance(attention, MatrixCompression):
            yield from [(attention, width, hidden)] * 3
            yield attention, hidden, width
        if isinstance(feed_forward, MatrixCompression):
            yield feed_forward, layer.intermediate_size, hidden
            yield feed_forward, hidden, layer.intermediate_size


def _norms(config: CompactBertConfig) -> int:
    """Parameters of the norms in layers."""
    choices = (
        compression(name) for layer in config.architecture.layers for name in (layer.attention, layer.feed_forward)
    )
    return sum(2 * config.hidden_size for choice in choices if choice.weights != "none")


def _exits(config: CompactBertConfig) -> int:
    """Parameters of the classifiers between layers."""
    return (config.hidden_size + 1) * config.outputs * (config.num_hidden_layers - 1) if config.exit_threshold else 0


def _numbers(shapes: Mapping[str, tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes.values())


def _projection(config: CompactBertConfig) -> int:
    """Parameters between the embeddings and the layers."""
    return (config.embedding_size + 1) * config.hidden_size if config.embedding_size else 0
