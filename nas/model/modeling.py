"""The one definition of a sub-network: a BERT sequence classifier with free sizes and compression choices.

Parameters carry the names of Hugging Face's `BertForSequenceClassification`, so that weights move between the two
without a table; `families.py` has the names of the other families. There are no buffers, so that the same code runs
on the slices of a supernet's weights.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from nas.compression import compression
from nas.model.configuration import CompactBertConfig
from nas.space import Layer


class BlockLinear(nn.Linear):
    """A linear layer that belongs to a block and is computed as the block's compression choice says."""

    def __init__(self, in_features: int, out_features: int, choice: str) -> None:
        super().__init__(in_features, out_features)
        self.compression = compression(choice)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.compression.linear(input, self.weight, self.bias)


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised; the choice concerns the word table.

    `token_type_embeddings` is None where `type_vocab_size` is 0.
    """

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        self.compression = compression(config.embedding)
        width, types = config.embedding_width, config.type_vocab_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(types, width) if types else None
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        words = self.compression.embed(input_ids, self.word_embeddings.weight)
        total = words + self.position_embeddings.weight[: input_ids.shape[1]]
        types = self.token_type_embeddings
        if types is not None:
            total = total + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        return self.dropout(self.LayerNorm(total))


class SelfAttention(nn.Module):
    """Multi-head attention whose heads keep the teacher's head size."""

    def __init__(self, config: CompactBertConfig, layer: Layer) -> None:
        super().__init__()
        self.head_size = config.attention_head_size
        self.dropout_prob = config.attention_probs_dropout_prob
        width = layer.num_attention_heads * self.head_size
        self.query = BlockLinear(config.hidden_size, width, layer.attention)
        self.key = BlockLinear(config.hidden_size, width, layer.attention)
        self.value = BlockLinear(config.hidden_size, width, layer.attention)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        query, key, value = (
            projection(hidden).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        dropout = self.dropout_prob if self.training else 0.0
        context = functional.scaled_dot_product_attention(query, key, value, mask, dropout)
        return context.transpose(1, 2).flatten(2)


class ResidualOutput(nn.Module):
    """The last linear layer of a block, with the residual connection and the norm behind it."""

    def __init__(self, config: CompactBertConfig, in_features: int, choice: str) -> None:
        super().__init__()
        self.dense = BlockLinear(in_features, config.hidden_size, choice)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(features)) + residual)


class AttentionBlock(nn.Module):
    """The attention block of a layer."""

    def __init__(self, config: CompactBertConfig, layer: Layer) -> None:
        super().__init__()
        self.self = SelfAttention(config, layer)
        width = layer.num_attention_heads * config.attention_head_size
        self.output = ResidualOutput(config, width, layer.attention)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return self.output(self.self(hidden, mask), hidden)


class Intermediate(nn.Module):
    """The first half of a feed-forward block."""

    def __init__(self, config: CompactBertConfig, layer: Layer) -> None:
        super().__init__()
        self.dense = BlockLinear(config.hidden_size, layer.intermediate_size, layer.feed_forward)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(hidden))


class CompactBertLayer(nn.Module):
    """One layer: an attention block, then a feed-forward block (`intermediate` and `output`)."""

    def __init__(self, config: CompactBertConfig, layer: Layer) -> None:
        super().__init__()
        self.attention = AttentionBlock(config, layer)
        self.intermediate = Intermediate(config, layer)
        self.output = ResidualOutput(config, layer.intermediate_size, layer.feed_forward)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        hidden = self.attention(hidden, mask)
        return self.output(self.intermediate(hidden), hidden)


class Encoder(nn.Module):
    """The layers, in order."""

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(CompactBertLayer(config, layer) for layer in config.architecture.layers)


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
        self.pooler = Pooler(config)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The hidden states after the embeddings and after each layer, each (batch, sequence, hidden_size)."""
        hidden = self.embeddings(input_ids, token_type_ids)
        if self.embeddings_project is not None:
            hidden = self.embeddings_project(hidden)
        mask = None
        if attention_mask is not None:
            blocked = torch.finfo(hidden.dtype).min
            mask = (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * blocked
        states = [hidden]
        for layer in self.encoder.layer:
            states.append(layer(states[-1], mask))
        return tuple(states)


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

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> SequenceClassifierOutput:
        """Classify token ids of shape (batch, sequence); logits have shape (batch, num_labels).

        `token_type_ids` of the same shape are not looked at by a network without token types.

        With `labels` of shape (batch,) the loss is cross-entropy, or the mean squared error for one label.
        """
        states = self.bert(input_ids, attention_mask, token_type_ids)
        logits = self.classifier(self.dropout(self.bert.pooler(states[-1])))
        return SequenceClassifierOutput(
            loss=None if labels is None else task_loss(logits, labels),
            logits=logits,
            hidden_states=states if output_hidden_states else None,
        )


def task_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy for several labels, mean squared error for one."""
    if logits.shape[-1] == 1:
        return functional.mse_loss(logits.squeeze(-1).float(), labels.float())
    return functional.cross_entropy(logits.float(), labels)


def attention_scale(config: CompactBertConfig) -> float:
    """What scores are multiplied with before the softmax."""
    return 1.0 / math.sqrt(config.attention_head_size)
