"""The modules of a sub-network: embeddings, attention blocks, feed-forward blocks and layers.

Parameters have the same names as in Hugging Face's BERT. `modeling.py` builds networks from these modules, and
`onnx.py` exports the modules to ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from nas.architecture import LAYER_BLOCKS, Layer
from nas.compression import Block, compression, matrix_compression
from nas.model.axes import Axis, along
from nas.model.configuration import CompactBertConfig
from nas.model.positions import positions_of


class Compressed(nn.Module):
    """The matrices with which a block's compression method replaces a weight of shape (rows, columns)."""

    weight: nn.Parameter
    """The matrix named `weight`. This attribute exists only if the compression method has a matrix of that name."""

    def __init__(self, rows: int, columns: int, choice: str, block: Block) -> None:
        super().__init__()
        self.rows, self.columns, self.block = rows, columns, block
        self.compression = matrix_compression(choice)
        self._prepared: Mapping[str, torch.Tensor] | None = None
        add_matrices(self, self.compression.matrices(rows, columns))

    @property
    def matrices(self) -> dict[str, torch.Tensor]:
        """The matrices that replace the weight, keyed by name."""
        return {name: getattr(self, name) for name in self.compression.matrices(self.rows, self.columns)}

    def freeze(self, dtype: torch.dtype = torch.float32) -> None:
        """Quantise or sparsify the matrices once, instead of in every forward pass.

        Call this method only if the weights will not change again. The results are stored with the data type `dtype`.
        If the network runs under autocast, `dtype` should be the data type of the autocast.
        """
        prepared = self.compression.prepared(self.matrices)
        self._prepared = {name: matrix.to(dtype) for name, matrix in prepared.items()}


class BlockLinear(Compressed):
    """A linear layer of a block. The block's compression method defines how the weight is stored."""

    input_range: torch.Tensor | None
    """The range with which the inputs are quantised: a tensor of shape (2,), or None if the layer is not calibrated or
    needs no range."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        choice: str,
        block: Block,
        bias: bool = True,
        calibrated: bool = False,
    ) -> None:
        super().__init__(out_features, in_features, choice, block)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        has_range = calibrated and self.compression.calibrated
        self.register_buffer("input_range", torch.zeros(2) if has_range else None)

    def quantised_inputs(self, input: torch.Tensor) -> torch.Tensor:
        """Return the input (batch, tokens, in_features) as the layer's compression method quantises it."""
        if self.input_range is None:
            return self.compression.quantised_inputs(input)
        return self.compression.quantised_within(input, self.input_range)

    def forward(self, input: torch.Tensor, quantised: torch.Tensor | None = None) -> torch.Tensor:
        """Return the layer's output, (batch, tokens, out_features).

        `quantised` is the quantised `input`, if it was already computed for another layer with the same input.
        """
        prepared = self.compression.prepared(self.matrices) if self._prepared is None else self._prepared
        quantised = self.quantised_inputs(input) if quantised is None else quantised
        return self.compression.apply(quantised, prepared, self.bias)


class BlockEmbedding(Compressed):
    """The token embeddings, a table of shape (vocabulary, features) with its own compression method."""

    def __init__(self, rows: int, columns: int, choice: str) -> None:
        super().__init__(rows, columns, choice, "embedding")

    @property
    def num_embeddings(self) -> int:
        """The size of the vocabulary. `nn.Embedding` has a property of the same name."""
        return self.rows

    @property
    def embedding_dim(self) -> int:
        """The number of features per token. `nn.Embedding` has a property of the same name."""
        return self.columns

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.compression.embed(ids, self.matrices)

    @torch.no_grad()
    def resize(self, rows: int) -> None:
        """Change the size of the vocabulary in place. Each added row is the mean of all previous rows."""
        name = self.compression.writes
        old: nn.Parameter = getattr(self, name)
        if rows == self.rows:
            return
        added = old.mean(dim=0, keepdim=True).expand(max(0, rows - self.rows), -1)
        setattr(self, name, nn.Parameter(torch.cat([old[:rows], added]), requires_grad=old.requires_grad))
        self.rows = rows


def add_matrices(module: nn.Module, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Register a parameter for each name and shape in `shapes`.

    As in BERT, the initial values are drawn from a normal distribution with standard deviation 0.02.
    """
    for name, shape in shapes.items():
        matrix = torch.empty(shape)
        if not matrix.is_meta:  # drawing values on the meta device is slow and has no effect
            matrix.normal_(std=0.02)
        parameter = nn.Parameter(matrix)
        # True keeps `PreTrainedModel` from initialising the parameter again.
        parameter._is_hf_initialized = not parameter.is_meta  # type: ignore[attr-defined]
        module.register_parameter(name, parameter)


def _borrow(module: nn.Module, name: str, part: nn.Module) -> None:
    """Set the attribute `name` of `module` to `part`, a module that belongs to another module.

    `part` is not registered as a submodule, so its weights are listed and saved only once.
    """
    object.__setattr__(module, name, part)


class Embeddings(nn.Module):
    """The normalised sum of token, position and token-type embeddings. Only the token embeddings can be compressed.

    `position_embeddings` is None if the configuration has no `position_table`. `token_type_embeddings` is None if
    `type_vocab_size` is 0.
    """

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        width, positions, types = config.embedding_width, config.max_position_embeddings, config.type_vocab_size
        features = Axis.HIDDEN if config.embedding_size is None else None
        self.max_positions = positions
        self.word_embeddings = along(BlockEmbedding(config.vocab_size, width, config.embedding), None, features)
        self.position_embeddings = (
            along(nn.Embedding(positions, width), None, features) if config.position_table else None
        )
        self.token_type_embeddings = along(nn.Embedding(types, width), None, features) if types else None
        self.LayerNorm = along(nn.LayerNorm(width, eps=config.layer_norm_eps, bias=config.norm_bias), features)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the embeddings of the tokens, (batch, tokens, embedding width).

        If `inputs_embeds` is given, it replaces the token embeddings of `input_ids`. It has the shape of the result. If
        `position_ids` is not given, positions are counted from 0, including those of padding tokens. A network with a
        single token type ignores `token_type_ids`. Raises `ValueError` if a text is empty or has too many tokens.
        """
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        position_embeddings, length = self.position_embeddings, words.shape[1]
        if not length or (position_ids is None and length > self.max_positions):
            remedy = "truncate it (truncation=True)" if length else "give a text that is not empty"
            raise ValueError(
                f"a text must have 1 to {self.max_positions} tokens in this network, but got {length}; {remedy}"
            )
        total, type_embeddings = words, self.token_type_embeddings
        if position_embeddings is not None:
            total = words + (
                position_embeddings.weight[:length] if position_ids is None else position_embeddings(position_ids)
            )
        if type_embeddings is not None:
            single = token_type_ids is None or len(type_embeddings.weight) == 1
            total = total + (type_embeddings.weight[0] if single else type_embeddings(token_type_ids))
        return self.dropout(self.LayerNorm(total))


def additive_mask(attention_mask: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Return the term (batch, 1, 1, tokens) that excludes padding when it is added to attention scores.

    `attention_mask` (batch, tokens) is 0 for padding tokens and 1 for all others. The result has the data type of
    `hidden`.
    """
    # Half of the lowest number stays finite when a negative score is added to it. With the lowest number itself, the
    # sum could be -infinity, and a text that consists only of padding would yield NaN.
    blocked = torch.finfo(hidden.dtype).min / 2
    return (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * blocked


class SelfAttention(nn.Module):
    """Multi-head attention, in which each head has the teacher's head size.

    As in transformers, `attn_implementation` selects the computation: `sdpa`, the default, uses PyTorch's fused
    operator, and `eager` uses separate matrix products and a softmax.
    """

    same_input = ("query", "key", "value")
    """The names of the linear layers that read the same input."""

    def __init__(self, config: CompactBertConfig, layer: Layer) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.attention_head_size
        self.scale = attention_scale(config)
        self.dropout_prob = config.attention_probs_dropout_prob
        sizes = config.hidden_size, layer.num_attention_heads * self.head_size
        self.query, self.key, self.value = (
            along(
                BlockLinear(*sizes, layer.attention, "attention", config.attention_bias, config.calibrated),
                Axis.HEAD_FEATURES,
                Axis.HIDDEN,
            )
            for _ in self.same_input
        )
        self.positions = positions_of(config, layer)

    def forward(
        self,
        query_states: torch.Tensor,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        return_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the attention from the tokens of `query_states` to the tokens of `hidden`.

        `query_states` and `hidden` are (batch, tokens, hidden_size). Returns the context and the attention weights. The
        context is (batch, tokens of `query_states`, heads * head size). The attention weights are (batch, heads, tokens
        of `query_states`, tokens of `hidden`). If `return_attentions` is false, None is returned instead of the
        weights.
        """
        quantised = self.key.quantised_inputs(hidden)
        # If other layers share this block, the calibrated range of the query may differ from that of key and value.
        is_same = query_states is hidden and self.query.input_range is None
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for projected in (
                self.query(query_states, quantised if is_same else None),
                self.key(hidden, quantised),
                self.value(hidden, quantised),
            )
        )
        query, key = self.positions.rotated(query), self.positions.rotated(key)
        bias = self.positions.bias(query.shape[2], key.shape[2], query)
        if bias is not None:
            mask = bias[None] if mask is None else bias + mask
        dropout = self.dropout_prob if self.training else 0.0
        if not return_attentions and self.config._attn_implementation != "eager":
            context = functional.scaled_dot_product_attention(query, key, value, mask, dropout)
            return context.transpose(1, 2).flatten(2), None
        scores = (query * self.scale) @ key.transpose(2, 3)
        scores = scores if mask is None else scores + mask.to(scores.dtype)
        weights = scores.softmax(dim=-1, dtype=scores.dtype)  # otherwise, autocast would use float32
        context = functional.dropout(weights, dropout) @ value
        return context.transpose(1, 2).flatten(2), weights if return_attentions else None


def most_attended(weights: torch.Tensor, mask: torch.Tensor | None, count: int) -> torch.Tensor:
    """Return the positions of the first token and of the tokens that received the most attention.

    This is the selection rule of PoWER-BERT (arXiv:2001.08950). `weights` is (batch, heads, tokens, tokens), and `mask`
    is a result of `additive_mask`. Attention from padding tokens is ignored. The result is (batch, at most `count`),
    with the first token first and padding last.
    """
    real = torch.ones_like(weights[:, :1, :, :1]) if mask is None else (mask == 0).transpose(2, 3)
    received = (weights * real).float().sum(dim=(1, 2)).detach()
    scores = received if mask is None else received.masked_fill(mask[:, 0, 0] != 0, -1.0)
    scores = torch.cat([torch.full_like(scores[:, :1], math.inf), scores[:, 1:]], dim=1)
    return scores.topk(min(count, scores.shape[1]), dim=1).indices


def at_positions(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the tokens of `hidden` (batch, tokens, features) at `positions` (batch, kept tokens)."""
    return hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))


class ResidualOutput(nn.Module):
    """The last linear layer of a block, with the residual connection and the block's norm.

    By default, the norm follows the residual connection. With `norm_first`, the norm is applied to the block's input
    instead, and `LayerNorm` is None if this input is already normalised. If `owner` is given, the module uses the
    linear layer of `owner`.
    """

    dense: BlockLinear

    def __init__(
        self, config: CompactBertConfig, layer: Layer, block: Block, in_features: int, owner: ResidualOutput | None
    ) -> None:
        super().__init__()
        hidden = config.hidden_size
        if owner is None:
            bias = config.attention_bias if block == "attention" else config.feed_forward_bias
            inner = Axis.HEAD_FEATURES if block == "attention" else Axis.NEURONS
            linear = BlockLinear(in_features, hidden, layer.choice(block), block, bias, config.calibrated)
            self.dense = along(linear, Axis.HIDDEN, inner)
        else:
            _borrow(self, "dense", owner.dense)
        self.norm_first = config.norm_first
        has_norm = not (config.norm_first and block == "attention" and layer.source == 0)
        norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps, bias=config.norm_bias) if has_norm else None
        self.LayerNorm = None if norm is None else along(norm, Axis.HIDDEN)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def block_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the input of the block's first linear layers: `hidden`, normalised if `norm_first` is set."""
        return self.LayerNorm(hidden) if self.norm_first and self.LayerNorm is not None else hidden

    def forward(self, features: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        total = self.dropout(self.dense(features)) + residual
        return total if self.norm_first or self.LayerNorm is None else self.LayerNorm(total)


class AttentionBlock(nn.Module):
    """The attention block of a layer. If `owner` is given, the block uses the weights of `owner`, but its own norm."""

    output: ResidualOutput

    def __init__(self, config: CompactBertConfig, layer: Layer, owner: AttentionBlock | None = None) -> None:
        super().__init__()
        if owner is None:
            self.self = SelfAttention(config, layer)
        else:
            _borrow(self, "self", owner.self)
        width = layer.num_attention_heads * config.attention_head_size
        self.output = ResidualOutput(config, layer, "attention", width, None if owner is None else owner.output)

    def forward(
        self,
        query_states: torch.Tensor,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        return_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the block's output for the tokens of `query_states`, and the attention weights of `SelfAttention`."""
        normed = self.output.block_input(hidden)
        context, weights = self.self(
            normed if query_states is hidden else self.output.block_input(query_states), normed, mask, return_attentions
        )
        return self.output(context, query_states), weights


class Intermediate(nn.Module):
    """The first half of a feed-forward block: one or two linear layers and the activation.

    A gated block has two linear layers, and multiplies the activation of the first layer's output by the second layer's
    output (Shazeer, arXiv:2002.05202).
    """

    def __init__(self, config: CompactBertConfig, layer: Layer) -> None:
        super().__init__()
        self.same_input = ("dense", "gate") if config.gated else ()
        self.dense = self._linear(config, layer)
        self.gate = self._linear(config, layer) if config.gated else None
        self.activation = ACT2FN[config.hidden_act]

    @staticmethod
    def _linear(config: CompactBertConfig, layer: Layer) -> BlockLinear:
        sizes = config.hidden_size, layer.intermediate_size
        linear = BlockLinear(*sizes, layer.feed_forward, "feed_forward", config.feed_forward_bias, config.calibrated)
        return along(linear, Axis.NEURONS, Axis.HIDDEN)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.gate is None:
            return self.activation(self.dense(hidden))
        quantised = self.dense.quantised_inputs(hidden)
        return self.activation(self.dense(hidden, quantised)) * self.gate(hidden, quantised)


class CompactBertLayer(nn.Module):
    """One layer: an attention block, then a feed-forward block (`intermediate` and `output`).

    `has_attention` and `has_feed_forward` say which of the two blocks exist. `quantises_inputs` says whether a block
    quantises its inputs with a scale that depends on all tokens of a text. If `keep_tokens` is not 0, the network keeps
    only that many tokens after this layer: the first token and the tokens that received the most attention. If
    `attention_owner` is given, the attention block uses the weights of that layer. If `feed_forward_owner` is given,
    the feed-forward block uses the weights of that layer.
    """

    attention: AttentionBlock
    intermediate: Intermediate
    output: ResidualOutput
    exit: nn.Linear
    """A classifier that reads the first token. This attribute exists only if texts can exit after this layer."""

    def __init__(
        self,
        config: CompactBertConfig,
        layer: Layer,
        attention_owner: CompactBertLayer | None = None,
        feed_forward_owner: CompactBertLayer | None = None,
    ) -> None:
        super().__init__()
        self.keep_tokens = layer.keep_tokens
        owners = [owner for owner in (attention_owner, feed_forward_owner) if owner is not None]
        methods = ((compression(layer.choice(block)), block) for block in LAYER_BLOCKS)
        quantising = (method.calibrated or method.quantises_by_batch(block) for method, block in methods)
        self.quantises_inputs: bool = any(quantising) or any(owner.quantises_inputs for owner in owners)
        self.has_attention = compression(layer.attention).weights != "none"
        self.has_feed_forward = compression(layer.feed_forward).weights != "none"
        if self.has_attention:
            attention_lender = None if attention_owner is None else attention_owner.attention
            self.attention = AttentionBlock(config, layer, attention_lender)
        if self.has_feed_forward:
            if feed_forward_owner is None:
                self.intermediate = Intermediate(config, layer)
            else:
                _borrow(self, "intermediate", feed_forward_owner.intermediate)
            output_lender = None if feed_forward_owner is None else feed_forward_owner.output
            self.output = ResidualOutput(config, layer, "feed_forward", layer.intermediate_size, output_lender)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor | None, first_only: bool = False, return_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the hidden states after this layer, and the attention weights.

        The hidden states have the shape (batch, tokens, hidden_size). They include tokens that the network drops after
        this layer. With `first_only`, only the first token is computed. The attention weights are those of
        `SelfAttention`. The weights are None unless the layer has `keep_tokens` or `return_attentions` is set.
        """
        states, weights = hidden[:, :1] if first_only else hidden, None
        if self.has_attention:
            states, weights = self.attention(
                states, hidden, mask, return_attentions=return_attentions or self.keep_tokens > 0
            )
        return self.fed_forward(states) if self.has_feed_forward else states, weights

    def fed_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the output of the feed-forward block for the input `hidden`. Both are (batch, tokens, hidden_size)."""
        return self.output(self.intermediate(self.output.block_input(hidden)), hidden)


def attention_scale(config: CompactBertConfig) -> float:
    """Return the factor by which attention scores are multiplied before the softmax."""
    return 1.0 / math.sqrt(config.attention_head_size)
