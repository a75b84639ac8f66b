"""The one definition of a sub-network: a BERT sequence classifier with free sizes and compression choices.

Parameters carry the names of Hugging Face's `BertForSequenceClassification`, so that weights move between the two
without a table; `families.py` has the names of the other families. There are no buffers, so that the same code runs
on the slices of a supernet's weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from nas.architecture import LAYER_BLOCKS, Layer, first_token_from
from nas.compression import compression, matrix_compression
from nas.model.configuration import CompactBertConfig


class Compressed(nn.Module):
    """Matrices in place of one of shape (rows, columns), as the compression choice of their block has them."""

    weight: nn.Parameter
    """Where the choice has a matrix of that name."""

    def __init__(self, rows: int, columns: int, choice: str) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.compression = matrix_compression(choice)
        self._settled: Mapping[str, torch.Tensor] | None = None
        add_matrices(self, self.compression.matrices(rows, columns))

    @property
    def matrices(self) -> dict[str, torch.Tensor]:
        """What stands for the one matrix, by name."""
        return {name: getattr(self, name) for name in self.compression.matrices(self.rows, self.columns)}

    def settle(self, dtype: torch.dtype = torch.float32) -> None:
        """Round the matrices once for all passes to come: for a model whose weights no longer change.

        With another `dtype` they are kept in it, for passes under autocast.
        """
        settled = self.compression.settled(self.matrices)
        self._settled = {name: matrix.to(dtype) for name, matrix in settled.items()}


class BlockLinear(Compressed):
    """A linear layer that belongs to a block."""

    def __init__(self, in_features: int, out_features: int, choice: str) -> None:
        super().__init__(out_features, in_features, choice)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, input: torch.Tensor, rounded: torch.Tensor | None = None) -> torch.Tensor:
        """`rounded` is the input as the choice rounds it, where that is known: layers that read the same share it."""
        settled = self.compression.settled(self.matrices) if self._settled is None else self._settled
        rounded = self.compression.rounded(input) if rounded is None else rounded
        return self.compression.apply(rounded, settled, self.bias)


class BlockEmbedding(Compressed):
    """The table of word embeddings."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.compression.embed(ids, self.matrices)


def add_matrices(module: nn.Module, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Give a module parameters of these names and shapes, with values as BERT's start."""
    for name, shape in shapes.items():
        matrix = torch.empty(shape)
        if not matrix.is_meta:  # there a product is as slow as a hundred parameters
            matrix.normal_(std=0.02)
        module.register_parameter(name, nn.Parameter(matrix))


def _borrow(module: nn.Module, name: str, part: nn.Module) -> None:
    """Give a module a part that stays another's: it is no submodule, so its weights are listed and saved once."""
    object.__setattr__(module, name, part)


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised; the choice concerns the word table.

    `token_type_embeddings` is None where `type_vocab_size` is 0.
    """

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        width, types = config.embedding_width, config.type_vocab_size
        self.word_embeddings = BlockEmbedding(config.vocab_size, width, config.embedding)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(types, width) if types else None
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        total = self.word_embeddings(input_ids) + self.position_embeddings.weight[: input_ids.shape[1]]
        types = self.token_type_embeddings
        if types is not None:
            total = total + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        return self.dropout(self.LayerNorm(total))


class SelfAttention(nn.Module):
    """Multi-head attention whose heads keep the teacher's head size."""

    def __init__(self, config: CompactBertConfig, layer: Layer) -> None:
        super().__init__()
        self.head_size = config.attention_head_size
        self.scale = attention_scale(config)
        self.dropout_prob = config.attention_probs_dropout_prob
        width = layer.num_attention_heads * self.head_size
        self.query = BlockLinear(config.hidden_size, width, layer.attention)
        self.key = BlockLinear(config.hidden_size, width, layer.attention)
        self.value = BlockLinear(config.hidden_size, width, layer.attention)

    def forward(
        self, reader: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor | None, weigh: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the tokens of `reader` gather from those of `hidden`, both (batch, tokens, hidden_size).

        With `weigh` also how much attention each token of `hidden` got, (batch, tokens).
        """
        rounded = self.key.compression.rounded(hidden)
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for projected in (
                self.query(reader, rounded if reader is hidden else None),
                self.key(hidden, rounded),
                self.value(hidden, rounded),
            )
        )
        dropout = self.dropout_prob if self.training else 0.0
        if not weigh:
            context = functional.scaled_dot_product_attention(query, key, value, mask, dropout)
            return context.transpose(1, 2).flatten(2), None
        scores = query @ key.transpose(2, 3) * self.scale
        weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        context = functional.dropout(weights, dropout) @ value
        real = torch.ones_like(weights[:, :1, :, :1]) if mask is None else (mask == 0).transpose(2, 3)
        received = (weights * real).float().sum(dim=(1, 2))
        return context.transpose(1, 2).flatten(2), received.detach()


def most_attended(received: torch.Tensor, mask: torch.Tensor | None, count: int) -> torch.Tensor:
    """The places of the first token and of those that got most attention (PoWER-BERT, Goyal et al., arXiv:2001.08950).

    `received` is (batch, tokens); returns (batch, at most `count`), the first token first, padding last.
    """
    scores = received if mask is None else received.masked_fill(mask[:, 0, 0] != 0, -1.0)
    scores = torch.cat([torch.full_like(scores[:, :1], math.inf), scores[:, 1:]], dim=1)
    return scores.topk(min(count, scores.shape[1]), dim=1).indices


def at_places(hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Some tokens of (batch, tokens, features), by their places (batch, kept)."""
    return hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[-1]))


class ResidualOutput(nn.Module):
    """The last linear layer of a block, with the residual connection and the norm behind it.

    Where `owner` is given, the linear layer is the owner's.
    """

    dense: BlockLinear

    def __init__(self, config: CompactBertConfig, in_features: int, choice: str, owner: ResidualOutput | None) -> None:
        super().__init__()
        if owner is None:
            self.dense = BlockLinear(in_features, config.hidden_size, choice)
        else:
            _borrow(self, "dense", owner.dense)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(features)) + residual)


class AttentionBlock(nn.Module):
    """The attention block of a layer. Where `owner` is given, it computes with the owner's weights and its own norm."""

    output: ResidualOutput

    def __init__(self, config: CompactBertConfig, layer: Layer, owner: AttentionBlock | None = None) -> None:
        super().__init__()
        if owner is None:
            self.self = SelfAttention(config, layer)
        else:
            _borrow(self, "self", owner.self)
        width = layer.num_attention_heads * config.attention_head_size
        self.output = ResidualOutput(config, width, layer.attention, None if owner is None else owner.output)

    def forward(
        self, reader: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor | None, weigh: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `SelfAttention`."""
        context, received = self.self(reader, hidden, mask, weigh)
        return self.output(context, reader), received


class Intermediate(nn.Module):
    """The first half of a feed-forward block."""

    def __init__(self, config: CompactBertConfig, layer: Layer) -> None:
        super().__init__()
        self.dense = BlockLinear(config.hidden_size, layer.intermediate_size, layer.feed_forward)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(hidden))


class CompactBertLayer(nn.Module):
    """One layer: an attention block, then a feed-forward block (`intermediate` and `output`).

    `has_attention` and `has_feed_forward` say which of the two it has. If `keep_tokens` is not 0, so many of the most
    attended tokens go on from here. `attention_owner` and `feed_forward_owner` are the layers whose weights it uses in
    place of its own.
    """

    attention: AttentionBlock
    intermediate: Intermediate
    output: ResidualOutput
    exit: nn.Linear
    """A classifier of the first token, where the network can be left after this layer."""

    def __init__(
        self,
        config: CompactBertConfig,
        layer: Layer,
        attention_owner: CompactBertLayer | None = None,
        feed_forward_owner: CompactBertLayer | None = None,
    ) -> None:
        super().__init__()
        self.keep_tokens = layer.keep_tokens
        self.has_attention = compression(layer.attention).weights != "none"
        self.has_feed_forward = compression(layer.feed_forward).weights != "none"
        if self.has_attention:
            lender = None if attention_owner is None else attention_owner.attention
            self.attention = AttentionBlock(config, layer, lender)
        if self.has_feed_forward:
            if feed_forward_owner is None:
                self.intermediate = Intermediate(config, layer)
            else:
                _borrow(self, "intermediate", feed_forward_owner.intermediate)
            last = None if feed_forward_owner is None else feed_forward_owner.output
            self.output = ResidualOutput(config, layer.intermediate_size, layer.feed_forward, last)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor | None, first_only: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The tokens of `hidden`, (batch, tokens, hidden_size), after this layer, and the places of those that go on.

        Without places all go on. With `first_only` just the first token is computed.
        """
        reader, received = hidden[:, :1] if first_only else hidden, None
        if self.has_attention:
            reader, received = self.attention(reader, hidden, mask, weigh=self.keep_tokens > 0)
        if self.has_feed_forward:
            reader = self.output(self.intermediate(reader), reader)
        return reader, None if received is None else most_attended(received, mask, self.keep_tokens)


class Encoder(nn.Module):
    """The layers, in order."""

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        architecture, built = config.architecture, list[CompactBertLayer]()
        for number, layer in enumerate(architecture.layers):
            at = (architecture.owner(number, block) for block in LAYER_BLOCKS)
            owners = (None if owner is None or owner == number else built[owner] for owner in at)
            built.append(CompactBertLayer(config, layer, *owners))
            if config.exit_threshold and number + 1 < len(architecture.layers):
                built[-1].exit = nn.Linear(config.hidden_size, config.outputs)
        self.layer = nn.ModuleList(built)


class Pooler(nn.Module):
    """The first token's features, through a dense layer and the family's activation.

    In training the heads of RoBERTa and ELECTRA drop out before this layer too; here dropout comes only behind it.
    """

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.pooler_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(hidden[:, 0]))


class CompactBertModel(nn.Module):
    """Embeddings, layers and pooler; a projection (`embeddings_project`, else None) where `embedding_size` is set."""

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        projected = config.embedding_size is not None
        self.embeddings_project = nn.Linear(config.embedding_width, config.hidden_size) if projected else None
        self.encoder = Encoder(config)
        self.first_token_from = first_token_from(config.architecture.resolved)
        self.pooler = Pooler(config)

    def embedded(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        """What the first layer reads, (batch, tokens, hidden_size)."""
        hidden: torch.Tensor = self.embeddings(input_ids, token_type_ids)
        return hidden if self.embeddings_project is None else self.embeddings_project(hidden)

    def after(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        """What a layer makes of texts of one length, without padding; of the first token alone where nothing else
        is read.
        """
        hidden_after, chosen = self.encoder.layer[number](hidden, None, number >= self.first_token_from)
        return hidden_after if chosen is None else at_places(hidden_after, chosen)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        every_token: bool = False,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        """The hidden states after the embeddings and after each layer, and the places of their tokens in the text.

        A state is (batch, tokens, hidden_size), its places (batch, tokens), or None where it has all tokens. From the
        last layer with attention on there is the first token alone, since nothing else is read, unless `every_token`
        asks for the rest.
        """
        hidden = self.embedded(input_ids, token_type_ids)
        mask = None
        if attention_mask is not None:
            blocked = torch.finfo(hidden.dtype).min
            mask = (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * blocked
        states = [hidden]
        places: list[torch.Tensor | None] = [None]
        for number, layer in enumerate(self.encoder.layer):
            first_only = number >= self.first_token_from and not every_token
            hidden, chosen = layer(hidden, mask, first_only)
            place = input_ids.new_zeros(len(input_ids), 1) if first_only else places[-1]
            if chosen is not None:
                hidden = at_places(hidden, chosen)
                mask = None if mask is None else mask.gather(3, chosen[:, None, None])
                place = chosen if place is None else place.gather(1, chosen)
            states.append(hidden)
            places.append(place)
        return states, places


@dataclass
class CompactBertOutput(SequenceClassifierOutput):
    """Also says which tokens the hidden states are of (see `CompactBertModel.forward`), and who left where."""

    places: tuple[torch.Tensor | None, ...] | None = None
    every_logits: tuple[torch.Tensor, ...] | None = None
    """The logits after each layer that the network can be left after, and the last ones, each (batch, num_labels)."""
    left_after: torch.Tensor | None = None
    """The number of layers that each text's logits took, (batch,)."""


class CompactBertForSequenceClassification(PreTrainedModel):
    """A sub-network as a Hugging Face model: what is extracted, profiled, exported and reloaded."""

    config: CompactBertConfig
    config_class = CompactBertConfig
    base_model_prefix = "bert"

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.outputs
        self.bert = CompactBertModel(config)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, config.outputs)
        self.post_init()

    @property
    def layers(self) -> list[CompactBertLayer]:
        """The layers, in order."""
        return cast(list[CompactBertLayer], list(self.bert.encoder.layer))

    def classify(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (batch, num_labels) from what the last layer makes of the first token."""
        logits: torch.Tensor = self.classifier(self.dropout(self.bert.pooler(hidden)))
        return logits

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        every_token: bool = False,
    ) -> CompactBertOutput:
        """Classify token ids of shape (batch, sequence); logits have shape (batch, num_labels).

        `token_type_ids` of the same shape are not looked at by a network without token types. Hidden states are those
        that are needed for the logits; `every_token` has all layers compute all tokens.

        With `labels` of shape (batch,) the loss is cross-entropy, or the mean squared error for one label.
        """
        states, places = self.bert(input_ids, attention_mask, token_type_ids, every_token)
        logits = self.classify(states[-1])
        every, left_after = (logits,), None
        if self.config.exit_threshold:
            early = zip(self.layers[:-1], states[1:-1], strict=True)
            every = (*(layer.exit(state[:, 0]) for layer, state in early), logits)
            logits, left_after = first_sure(every, self.config.exit_threshold)
        return CompactBertOutput(
            loss=None if labels is None else task_loss(logits, labels),
            logits=logits,
            every_logits=every,
            left_after=left_after,
            hidden_states=tuple(states) if output_hidden_states else None,
            places=tuple(places) if output_hidden_states else None,
        )


def first_sure(every: tuple[torch.Tensor, ...], threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """For each text the first logits as sure as the threshold, else the last, and how many layers they took."""
    stacked = torch.stack(every)
    sure = stacked.float().softmax(dim=-1).amax(dim=-1) >= threshold
    sure[-1] = True
    first = sure.int().argmax(dim=0)
    return stacked[first, torch.arange(len(first), device=first.device)], first + 1


def task_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy for several labels, mean squared error for one."""
    if logits.shape[-1] == 1:
        return functional.mse_loss(logits.squeeze(-1).float(), labels.float())
    return functional.cross_entropy(logits.float(), labels)


def attention_scale(config: CompactBertConfig) -> float:
    """What scores are multiplied with before the softmax."""
    return 1.0 / math.sqrt(config.attention_head_size)
