"""Export sub-networks to ONNX, block by block.

`to_onnx` exports a complete network. The functions whose names begin with `emit_` add single parts of a network to a
graph. `nas/latency/networks.py` uses these functions to profile single blocks. The functions take and return the names
of values in the graph. The shapes in their docstrings are the shapes of these values.

The attention mask is a term that is added to attention scores. If possible, one matrix product computes query, key and
value. The query's weights include the factor by which attention scores are multiplied. Batch size and sequence length
are dynamic.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import nn

from nas.architecture import first_token_from
from nas.compression import INPUT_RANGE, matrix_compression
from nas.form import HIDDEN_STATES, OUTPUT_NAMES, Readout
from nas.graph import GraphBuilder
from nas.model.configuration import CompactBertConfig
from nas.model.layers import (
    AttentionBlock,
    BlockLinear,
    CompactBertLayer,
    Compressed,
    Embeddings,
    ResidualOutput,
    attention_scale,
)
from nas.model.modeling import CompactBert

_BLOCKED = np.array(-1e9, dtype=np.float32)
_SMALLEST_NORM = 1e-12
"""The smallest divisor with which outputs are scaled to length 1. torch uses the same value."""
_NO_COMPRESSION = matrix_compression("none")
_ACTIVATIONS = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "leaky_relu": "LeakyRelu",
    "hardswish": "HardSwish",
    "mish": "Mish",
}
"""The ONNX operators of activations that are a single operator with its default attributes."""
_GELU = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def to_onnx(model: CompactBert) -> onnx.ModelProto:
    """Return a complete network, with its embeddings and head, as an ONNX model.

    The inputs are listed in `CompactBertConfig.input_names`. Each input is int64 of shape (batch, sequence). The
    outputs of a classifier are float `logits`: (batch, num_labels) for a sequence classifier, and (batch, sequence,
    num_labels) for a token classifier. The outputs of an encoder are `sentence_embedding` (batch, outputs) and, for
    programs that compute embeddings from hidden states, `last_hidden_state`. A network with early exits also has the
    output `left_after` (batch, 1): the number of layers after which each text exited.
    """
    graph, config = GraphBuilder(), model.config
    inputs = {
        name: graph.input(name, TensorProto.INT64, ("batch_size", "sequence_length")) for name in config.input_names
    }
    hidden = emit_embeddings(graph, model.bert.embeddings, inputs["input_ids"], inputs.get("token_type_ids"))
    projection = model.bert.embeddings_project
    if projection is not None:
        hidden = _emit_linear_of_tokens(graph, projection, hidden)
    mask = emit_mask(graph, inputs["attention_mask"])
    logits, left_after = _emit_layers_from(graph, model, 0, hidden, mask)
    texts = ("batch_size", "sequence_length") if config.readout == "every" else ("batch_size",)
    graph.output(logits, OUTPUT_NAMES[config.network_type], (*texts, config.outputs))
    if config.exit_threshold:
        graph.output(left_after, "left_after", ("batch_size", 1), TensorProto.INT64)
    return graph.model("compact_bert")


def _emit_layers_from(graph: GraphBuilder, model: CompactBert, number: int, hidden: str, mask: str) -> tuple[str, str]:
    """Add all layers from layer `number` on, and the head.

    Returns the name of the logits, and the name of the numbers of layers after which the texts exit, (batch, 1). The
    second name is empty if the network has no early exits.
    """
    config, layers = model.config, model.layers
    if number == len(layers):
        if model.bert.final_norm is not None:
            hidden = _emit_norm(graph, model.bert.final_norm, hidden)
        if config.network_type == "encoder":
            tokens = 1 if config.readout == "first" else "sequence_length"
            graph.output(hidden, HIDDEN_STATES, ("batch_size", tokens, config.hidden_size))
        logits = _emit_head(graph, model, hidden, mask)
        return logits, graph.constant(np.array([[number]])) if config.exit_threshold else ""
    architecture = config.architecture
    last_attention = first_token_from(architecture.resolved, config.readout)
    query_states = emit_first(graph, hidden) if number == last_attention else hidden
    # In the last attention block, queries are computed separately from keys and values, because only the first token
    # needs a query. A block that shares weights with the last attention block also computes its queries separately, so
    # that equal constants are stored only once.
    separate_queries = last_attention < len(layers) and architecture.owner(number, "attention") == architecture.owner(
        last_attention, "attention"
    )
    hidden, mask = _emit_layer(graph, config, layers[number], query_states, hidden, mask, separate_queries)
    if number + 1 == len(layers) or not config.exit_threshold:
        return _emit_layers_from(graph, model, number + 1, hidden, mask)
    exit_logits = _emit_dense(graph, layers[number].exit, _emit_first_state(graph, hidden))
    confidence = graph.add("ReduceMax", graph.add("Softmax", exit_logits, axis=-1), graph.constant(np.array([1])))
    threshold = graph.constant(np.array(config.exit_threshold, dtype=np.float32))
    confident = graph.add("GreaterOrEqual", confidence, threshold)
    all_confident_int = graph.add("ReduceMin", graph.add("Cast", confident, to=TensorProto.INT32), keepdims=0)
    exit_number = graph.constant(np.array([[number + 1]]))
    otherwise = GraphBuilder(outer=graph)
    logits, left_after = _emit_layers_from(otherwise, model, number + 1, hidden, mask)
    shapes = {"logits": (TensorProto.FLOAT, (None, config.outputs)), "left_after": (TensorProto.INT64, (None, 1))}
    otherwise.output(
        otherwise.add("Where", confident, exit_logits, logits), f"logits_of_{number}", (None, config.outputs)
    )
    otherwise.output(
        otherwise.add("Where", confident, exit_number, left_after), f"left_after_{number}", (None, 1), TensorProto.INT64
    )
    all_confident = graph.add("Cast", all_confident_int, to=TensorProto.BOOL)
    exit_numbers = graph.add("Where", confident, exit_number, exit_number)  # one number per text
    logits, left_after = graph.choose(all_confident, shapes, (exit_logits, exit_numbers), otherwise)
    return logits, left_after


def _emit_head(graph: GraphBuilder, model: CompactBert, hidden: str, mask: str) -> str:
    """Add the head: readout, pooler, last linear layer with its activation, and scaling to length 1.

    All parts but the readout are optional.
    """
    readout, pooler = model.config.readout, model.bert.pooler
    features = _emit_readout(graph, readout, hidden, mask)
    linear = _emit_linear_of_tokens if readout == "every" else _emit_dense
    if pooler is not None and model.config.pooler_act is not None:
        features = _emit_activation(graph, model.config.pooler_act, linear(graph, pooler.dense, features))
        features = features if pooler.LayerNorm is None else _emit_norm(graph, pooler.LayerNorm, features)
    outputs = features if model.classifier is None else linear(graph, model.classifier, features)
    if model.config.projection_act is not None:
        outputs = _emit_activation(graph, model.config.projection_act, outputs)
    if not model.config.normalize:
        return outputs
    least = graph.constant(np.array(_SMALLEST_NORM, dtype=np.float32))
    length = graph.add("ReduceL2", outputs, graph.constant(np.array([-1])))
    return graph.add("Div", outputs, graph.add("Max", length, least))


def _emit_readout(graph: GraphBuilder, readout: Readout, hidden: str, mask: str) -> str:
    """Add the readout, which `modeling.READOUTS` computes in torch. `mask` is a result of `emit_mask`."""
    match readout:
        case "first":
            return _emit_first_state(graph, hidden)
        case "mean":
            return _emit_mean_state(graph, hidden, mask)
        case "every":
            return hidden


def _emit_mean_state(graph: GraphBuilder, hidden: str, mask: str) -> str:
    """Compute the mean over the tokens of each text, (batch, features)."""
    one, two = (graph.constant(np.array([number])) for number in (1, 2))
    is_real = graph.cast_to_float(graph.add("Equal", mask, graph.constant(np.array(0, dtype=np.float32))))
    is_real = graph.add("Squeeze", is_real, one)  # (batch, 1, tokens)
    total = graph.add("Squeeze", graph.add("MatMul", is_real, hidden), one)
    return graph.add("Div", total, graph.add("ReduceSum", is_real, two, keepdims=0))


def _emit_first_state(graph: GraphBuilder, hidden: str) -> str:
    """Select the features of the first token, (batch, features)."""
    return graph.add("Gather", hidden, graph.constant(np.array(0)), axis=1)


def emit_embeddings(graph: GraphBuilder, embeddings: Embeddings, ids: str, token_types: str | None) -> str:
    """Add the embeddings to the graph; their shape is (batch, sequence, embedding width).

    `token_types` is the name of the value that holds the token types. If `token_types` is None and the network has
    token types, all tokens have the first type.
    """
    table = embeddings.word_embeddings
    words = table.compression.emit_embed(graph, ids, _arrays(table))
    position_embeddings, type_embeddings = embeddings.position_embeddings, embeddings.token_type_embeddings
    total = words
    if position_embeddings is not None:
        length, start = graph.add("Shape", ids, start=1, end=2), graph.constant(np.array([0]))
        added_rows = _array(position_embeddings.weight)
        if type_embeddings is not None and token_types is None:
            added_rows = added_rows + _array(type_embeddings.weight[0])
        total = graph.add("Add", words, graph.add("Slice", graph.constant(added_rows), start, length, start))
    if type_embeddings is not None and token_types is not None:
        total = graph.add(
            "Add", total, graph.add("Gather", graph.constant(_array(type_embeddings.weight)), token_types, axis=0)
        )
    return _emit_norm(graph, embeddings.LayerNorm, total)


def emit_mask(graph: GraphBuilder, attention_mask: str) -> str:
    """Convert a 0/1 mask (batch, sequence) to a term (batch, 1, 1, sequence) that is added to attention scores."""
    is_padding = graph.add("Sub", graph.constant(np.array(1, dtype=np.float32)), graph.cast_to_float(attention_mask))
    scaled = graph.add("Mul", is_padding, graph.constant(_BLOCKED))
    return graph.add("Unsqueeze", scaled, graph.constant(np.array([1, 2])))


def _emit_layer(
    graph: GraphBuilder,
    config: CompactBertConfig,
    layer: CompactBertLayer,
    query_states: str,
    hidden: str,
    mask: str,
    separate_queries: bool,
) -> tuple[str, str]:
    """Add the blocks of a layer. Returns the hidden states that the layer passes on, and the mask of their tokens."""
    weights = None
    if layer.has_attention:
        query_states, weights = emit_attention(
            graph, config, layer.attention, query_states, hidden, mask, separate_queries
        )
    if layer.has_feed_forward:
        query_states = emit_feed_forward(graph, config, layer, query_states)
    if layer.keep_tokens and weights is not None:
        return emit_most_attended(graph, query_states, mask, weights, layer.keep_tokens)
    return query_states, mask


def emit_first(graph: GraphBuilder, hidden: str) -> str:
    """Select the first token of each text, (batch, 1, features)."""
    start, end = graph.constant(np.array([0])), graph.constant(np.array([1]))
    return graph.add("Slice", hidden, start, end, graph.constant(np.array([1])))


def emit_most_attended(graph: GraphBuilder, hidden: str, mask: str, weights: str, count: int) -> tuple[str, str]:
    """Select the first token and the tokens that received the most attention, as `most_attended` does in torch.

    `weights` is (batch, heads, tokens, tokens). Returns the selected tokens and their mask.
    """
    zero, one, two = (graph.constant(np.array([number])) for number in range(3))
    zero_float, one_float = (graph.constant(np.array(number, dtype=np.float32)) for number in (0, 1))
    is_real = graph.cast_to_float(graph.add("Equal", mask, zero_float))
    received = graph.add(
        "ReduceSum", graph.add("MatMul", is_real, weights), graph.constant(np.array([1, 2])), keepdims=0
    )
    text_mask = graph.add("Squeeze", is_real, graph.constant(np.array([1, 2])))
    # Padding gets -1. The scores of real tokens are multiplied by 1 and increased by 0, so they stay exact.
    scores = graph.add("Add", graph.add("Mul", received, text_mask), graph.add("Sub", text_mask, one_float))
    first = graph.add("Add", graph.add("Slice", scores, zero, one, one), graph.constant(-_BLOCKED))
    other_scores = graph.add("Slice", scores, one, graph.constant(np.array([np.iinfo(np.int64).max])), one)
    with_first = graph.add("Concat", first, other_scores, axis=1)
    tokens = graph.add("Shape", hidden, start=1, end=2)
    kept_count = graph.add("Min", tokens, graph.constant(np.array([count])))
    positions = graph.add_many("TopK", 2, with_first, kept_count, axis=1)[1]
    chosen = graph.add("GatherND", hidden, graph.add("Unsqueeze", positions, two), batch_dims=1)
    flat_mask = graph.add("Squeeze", mask, graph.constant(np.array([1, 2])))
    kept_mask = graph.add("GatherElements", flat_mask, positions, axis=1)
    return chosen, graph.add("Unsqueeze", kept_mask, graph.constant(np.array([1, 2])))


def emit_attention(
    graph: GraphBuilder,
    config: CompactBertConfig,
    block: AttentionBlock,
    query_states: str,
    hidden: str,
    mask: str,
    separate_queries: bool = False,
) -> tuple[str, str]:
    """Add an attention block with its residual connection and norm.

    The tokens of `query_states` attend to those of `hidden`. With `separate_queries`, a separate matrix product
    computes the queries even if `query_states` and `hidden` are the same value. Returns the output of the block for the
    tokens of `query_states`, and the attention weights, (batch, heads, tokens of `query_states`, tokens of `hidden`).
    """
    projections, head_size, residual = block.self, block.self.head_size, query_states
    is_same, hidden = query_states == hidden, _emit_block_input(graph, block.output, hidden)
    query_states = hidden if is_same else _emit_block_input(graph, block.output, query_states)
    choice, scale = projections.query.compression, np.float32(attention_scale(config))
    query, key, value = (
        (_arrays(linear), _bias(linear)) for linear in (projections.query, projections.key, projections.value)
    )
    scaled = query[0] | {choice.writes: query[0][choice.writes] * scale}
    query = scaled, None if query[1] is None else query[1] * scale
    if is_same and not separate_queries:
        projected = choice.emit_linears(graph, hidden, [query, key, value])
    else:
        projected = [choice.emit_linear(graph, query_states, *query), *choice.emit_linears(graph, hidden, [key, value])]
    heads = graph.constant(np.array([0, 0, -1, head_size]))
    split = [graph.add("Reshape", part, heads) for part in projected]
    positions = projections.positions
    queries = graph.add("Transpose", split[0], perm=[0, 2, 1, 3])
    keys = graph.add("Transpose", split[1], perm=[0, 2, 1, 3] if positions.rotates else [0, 2, 3, 1])
    values = graph.add("Transpose", split[2], perm=[0, 2, 1, 3])
    if positions.rotates or positions.biases:
        length = graph.once(("length", mask), lambda: graph.add("Shape", mask, start=3, end=4))
        query_count = length if is_same else graph.constant(np.array([1]))  # only the first token
    if positions.rotates:
        queries = positions.emit_rotated(graph, queries, query_count)
        keys = graph.add("Transpose", positions.emit_rotated(graph, keys, length), perm=[0, 1, 3, 2])
    scores = graph.add("Add", graph.add("MatMul", queries, keys), mask)
    if positions.biases:
        scores = graph.add("Add", scores, positions.emit_bias(graph, query_count, length))
    weights = graph.add("Softmax", scores, axis=-1)
    merged = graph.add("Transpose", graph.add("MatMul", weights, values), perm=[0, 2, 1, 3])
    flat = graph.add("Reshape", merged, graph.constant(np.array([0, 0, -1])))
    return _emit_residual(graph, block.output, flat, residual), weights


def emit_feed_forward(graph: GraphBuilder, config: CompactBertConfig, layer: CompactBertLayer, hidden: str) -> str:
    """Add a feed-forward block with its residual connection and norm."""
    intermediate, normed = layer.intermediate, _emit_block_input(graph, layer.output, hidden)
    if intermediate.gate is None:
        inner = _emit_activation(graph, config.hidden_act, _emit_linear(graph, intermediate.dense, normed))
        return _emit_residual(graph, layer.output, inner, hidden)
    linears = [(_arrays(linear), _bias(linear)) for linear in (intermediate.dense, intermediate.gate)]
    inner, gate = intermediate.dense.compression.emit_linears(graph, normed, linears)
    gated = graph.add("Mul", _emit_activation(graph, config.hidden_act, inner), gate)
    return _emit_residual(graph, layer.output, gated, hidden)


def _emit_linear(graph: GraphBuilder, linear: BlockLinear, value: str) -> str:
    return linear.compression.emit_linear(graph, value, _arrays(linear), _bias(linear))


def _emit_block_input(graph: GraphBuilder, output: ResidualOutput, hidden: str) -> str:
    """Return the input of the block's first linear layers: `hidden`, normalised if `norm_first` is set."""
    return _emit_norm(graph, output.LayerNorm, hidden) if output.norm_first and output.LayerNorm else hidden


def _emit_activation(graph: GraphBuilder, name: str, value: str) -> str:
    if name in _GELU:
        return graph.add("Gelu", value, approximate=_GELU[name])
    if name == "silu":
        return graph.add("Mul", value, graph.add("Sigmoid", value))
    if name == "relu6":
        return graph.add("Min", graph.add("Relu", value), graph.constant(np.array(6.0, dtype=np.float32)))
    return graph.add(_ACTIVATIONS[name], value)


def _emit_residual(graph: GraphBuilder, output: ResidualOutput, features: str, residual: str) -> str:
    total = graph.add("Add", _emit_linear(graph, output.dense, features), residual)
    return total if output.norm_first or not output.LayerNorm else _emit_norm(graph, output.LayerNorm, total)


def _emit_norm(graph: GraphBuilder, norm: nn.LayerNorm, value: str) -> str:
    parameters = [graph.constant(_array(parameter)) for parameter in norm.parameters()]  # the bias comes last
    return graph.add("LayerNormalization", value, *parameters, axis=-1, epsilon=norm.eps)


def _emit_linear_of_tokens(graph: GraphBuilder, dense: nn.Linear, value: str) -> str:
    return _NO_COMPRESSION.emit_linear(graph, value, {"weight": _array(dense.weight)}, _bias(dense))


def _emit_dense(graph: GraphBuilder, dense: nn.Linear, value: str) -> str:
    parameters = [graph.constant(_array(parameter)) for parameter in dense.parameters()]  # the bias comes last
    return graph.add("Gemm", value, *parameters, transB=1)


def _bias(linear: BlockLinear | nn.Linear) -> np.ndarray | None:
    return None if linear.bias is None else _array(linear.bias)


def _arrays(module: Compressed) -> dict[str, np.ndarray]:
    """Return the matrices of a module and, if it is a calibrated linear layer, the range of its inputs, by name."""
    arrays = {name: _array(matrix) for name, matrix in module.matrices.items()}
    if isinstance(module, BlockLinear) and module.input_range is not None:
        arrays[INPUT_RANGE] = _array(module.input_range)
    return arrays


def _array(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().float().cpu().numpy()
