"""Parameters and stored bytes of a sub-network, from its configuration alone."""

from __future__ import annotations

from nas.compression import compression
from nas.model.configuration import CompactBertConfig

MB = 1e6


def count_parameters(config: CompactBertConfig) -> int:
    """The exact number of parameters of the extracted model."""
    hidden = config.hidden_size
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    total = (rows + 2) * config.embedding_width + _projection(config)
    for layer in config.architecture.layers:
        width = layer.num_attention_heads * config.attention_head_size
        total += 3 * (hidden + 1) * width + (width + 1) * hidden + 2 * hidden
        total += (hidden + 1) * layer.intermediate_size + (layer.intermediate_size + 1) * hidden + 2 * hidden
    return total + (hidden + 1) * hidden + (hidden + 1) * config.outputs


def stored_mb(config: CompactBertConfig) -> float:
    """Megabytes (10^6 bytes) of the weights as an export stores them, compressed blocks counted as such."""
    hidden = config.hidden_size
    types = config.type_vocab_size if config.type_vocab_size > 1 else 0  # a single type lies in the positions
    exact = (config.max_position_embeddings + types + 2) * config.embedding_width + _projection(config)
    exact += (hidden + 1) * hidden + (hidden + 1) * config.outputs
    total = 4 * exact + compression(config.embedding).table_bytes(config.vocab_size, config.embedding_width)
    for layer in config.architecture.layers:
        width = layer.num_attention_heads * config.attention_head_size
        attention, feed_forward = compression(layer.attention), compression(layer.feed_forward)
        total += attention.linear_bytes(3 * width, hidden) + attention.linear_bytes(hidden, width)
        total += feed_forward.linear_bytes(layer.intermediate_size, hidden)
        total += feed_forward.linear_bytes(hidden, layer.intermediate_size)
        total += 4 * 4 * hidden  # two norms
    return total / MB


def _projection(config: CompactBertConfig) -> int:
    """Parameters between the embeddings and the layers."""
    return (config.embedding_size + 1) * config.hidden_size if config.embedding_size else 0
