"""The definition of sub-networks: a BERT with a head, in which each layer has its own sizes and compression methods.

The readout is the part of the last hidden states that the head reads: the first token, the mean over all tokens, or
every token. The head is a linear layer, preceded by a pooler if the configuration has one. Parameters have the names of
Hugging Face's `BertForSequenceClassification`, so that weights can be copied between the two classes without renaming.
`nas/model/families/` holds the parameter names of other families. Only calibrated networks have buffers, so that the
same code can run on slices of a supernet's weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.loss.loss_utils import ForSequenceClassificationLoss, ForTokenClassification
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from nas.architecture import LAYER_BLOCKS, first_token_from
from nas.form import NetworkType, Readout
from nas.model.axes import Axis, along
from nas.model.configuration import CompactBertConfig
from nas.model.layers import (
    BlockEmbedding,
    CompactBertLayer,
    Compressed,
    Embeddings,
    additive_mask,
    at_positions,
    most_attended,
)


class Encoder(nn.Module):
    """The layers of a network, from the first to the last.

    transformers sets `gradient_checkpointing` if a user enables gradient checkpointing to save memory. In training, the
    backward pass then recomputes each layer.
    """

    gradient_checkpointing: bool = False
    _gradient_checkpointing_func: Any = None

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        architecture, built = config.architecture, list[CompactBertLayer]()
        for number, layer in enumerate(architecture.layers):
            owner_numbers = (architecture.owner(number, block) for block in LAYER_BLOCKS)
            owners = (None if owner is None or owner == number else built[owner] for owner in owner_numbers)
            built.append(CompactBertLayer(config, layer, *owners))
            if config.exit_threshold and number + 1 < len(architecture.layers):
                built[-1].exit = along(nn.Linear(config.hidden_size, config.outputs), None, Axis.HIDDEN)
        self.layer = nn.ModuleList(built)

    def run(self, number: int, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the outputs of layer `number`. `inputs` are the arguments of the layer's `forward`."""
        layer = self.layer[number]
        if self.gradient_checkpointing and self.training:
            return cast(tuple[torch.Tensor, torch.Tensor], self._gradient_checkpointing_func(layer.__call__, *inputs))
        return cast(tuple[torch.Tensor, torch.Tensor], layer(*inputs))


@dataclass
class States:
    """The hidden states and attention weights of a network's layers."""

    hidden: list[torch.Tensor]
    """The hidden states after the embeddings and after each layer. Each has the shape (batch, tokens, hidden_size)."""
    positions: list[torch.Tensor | None]
    """For each element of `hidden`, the positions (batch, tokens) of its tokens in the text; None if the element has
    all tokens.
    """
    attentions: list[torch.Tensor | None]
    """The attention weights (batch, heads, tokens, tokens) of each layer. An element is None if the weights were not
    requested, or if the layer has no attention.
    """


def _first_token(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the features of the first token, (batch, hidden_size)."""
    return hidden[:, 0]


def _mean_over_tokens(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean over the tokens of each text, (batch, hidden_size)."""
    if attention_mask is None:
        return hidden.mean(dim=1)
    mask = attention_mask[:, :, None].to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def _every_token(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the features of every token, (batch, tokens, hidden_size)."""
    return hidden


READOUTS: dict[Readout, Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "first": _first_token,
    "mean": _mean_over_tokens,
    "every": _every_token,
}
"""The functions that compute the head's input from the last hidden states and the attention mask, keyed by readout."""


class Pooler(nn.Module):
    """A dense layer, an activation and, in some families, a norm, between the readout and the last linear layer.

    In transformers, the heads of RoBERTa and ELECTRA apply dropout both before and after the dense layer. Here, dropout
    is applied only after the pooler.
    """

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.dense = along(nn.Linear(size, size, bias=config.pooler_bias), Axis.POOLED, Axis.HIDDEN)
        self.activation = ACT2FN[config.pooler_act]
        norm = nn.LayerNorm(size, eps=config.layer_norm_eps, bias=config.norm_bias) if config.pooler_norm else None
        self.LayerNorm = None if norm is None else along(norm, Axis.POOLED)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.activation(self.dense(features))
        return pooled if self.LayerNorm is None else self.LayerNorm(pooled)


class CompactBertPreTrainedModel(PreTrainedModel):
    """The base class of networks with and without a head, which inherits the methods of models in transformers."""

    config: CompactBertConfig
    config_class = CompactBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    """False means that the loss is a mean over a batch. A Trainer that accumulates gradients then averages these
    losses.
    """
    _supports_sdpa = True
    _no_split_modules = ["Embeddings", "CompactBertLayer"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Compressed):
            for matrix in module.matrices.values():
                if not getattr(matrix, "_is_hf_initialized", False):  # the loaded file lacks the matrix
                    matrix.normal_(std=self.config.initializer_range)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model as transformers does, together with its modelling file.

        The modelling file is copied from the folder from which the model was loaded, if that folder has one.
        transformers itself copies the file only if it loaded the class from this file, but not if it loaded the class
        from `nas`.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        module = (getattr(self.config, "auto_map", None) or {}).get("AutoConfig", "").partition(".")[0]
        source, target = (Path(folder, f"{module}.py") for folder in (self.config._name_or_path, save_directory))
        if module and source.is_file() and not target.exists():
            shutil.copyfile(source, target)

    def get_input_embeddings(self) -> BlockEmbedding:
        """Return the token embeddings, a module that maps token ids to the `inputs_embeds` of `forward`."""
        return cast(CompactBertModel, self.base_model).embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings with `value` (vocabulary, features). The compression method does not change.

        If `value` is a `BlockEmbedding` with the same compression method, it is used unchanged. Otherwise, the old and
        the new embeddings must both be a single table named `weight`, and the tables must have the same width. Raises
        `ValueError` if this is not the case.
        """
        table, weight = self.get_input_embeddings(), getattr(value, "weight", None)
        if isinstance(value, BlockEmbedding) and value.compression == table.compression:
            cast(CompactBertModel, self.base_model).embeddings.word_embeddings = value
        elif isinstance(weight, nn.Parameter) and isinstance(getattr(table, "weight", None), nn.Parameter):
            if weight.shape[1:] != (table.columns,):
                raise ValueError(
                    f"token embeddings must have {table.columns} features, but got {weight.shape[1]}; give a table of "
                    "that width"
                )
            table.weight, table.rows = weight, len(weight)
        else:
            raise ValueError(
                f"the token embeddings of this network are stored as {table.compression.spec} and cannot be "
                f"replaced by {type(value).__name__}; change them in place, or call resize_token_embeddings"
            )
        self.config.vocab_size = self.get_input_embeddings().rows

    def resize_token_embeddings(  # type: ignore[override]
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> BlockEmbedding:
        """Change the vocabulary size. Each added row is the mean of all previous rows; `mean_resizing` is ignored."""
        table = self.get_input_embeddings()
        rows = new_num_tokens or table.rows
        table.resize(rows if pad_to_multiple_of is None else -(-rows // pad_to_multiple_of) * pad_to_multiple_of)
        self.config.vocab_size = table.rows
        return table


class CompactBertModel(CompactBertPreTrainedModel):
    """Embeddings and layers without a head: a model that computes hidden states from token ids.

    `embeddings_project` is None unless `embedding_size` is set. `final_norm` is None unless `norm_first` is set.
    `pooler` is None unless `pooler_act` is set. The pooler is part of the head, but it is an attribute of this class,
    so that its parameters have the same names as in BERT.
    """

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        hidden, width = config.hidden_size, config.embedding_size
        self.embeddings_project = None if width is None else along(nn.Linear(width, hidden), Axis.HIDDEN, None)
        self.encoder = Encoder(config)
        norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps, bias=config.norm_bias) if config.norm_first else None
        self.final_norm = None if norm is None else along(norm, Axis.HIDDEN)
        self.first_token_from = first_token_from(config.architecture.resolved, config.readout)
        self.pooler = None if config.pooler_act is None else Pooler(config)
        self.post_init()

    def embedded(
        self,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the input (batch, tokens, hidden_size) of the first layer. See `Embeddings` for the arguments."""
        hidden: torch.Tensor = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        return hidden if self.embeddings_project is None else self.embeddings_project(hidden)

    def after(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return the hidden states that layer `number` passes on, for texts of equal length without padding.

        If the rest of the network needs only the first token, the result has only the first token.
        """
        layer = cast(CompactBertLayer, self.encoder.layer[number])
        hidden_after, weights = layer(hidden, None, number >= self.first_token_from)
        if not layer.keep_tokens or weights is None:
            return hidden_after
        return at_positions(hidden_after, most_attended(weights, None, layer.keep_tokens))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the hidden states for token ids (batch, sequence), in the output format of transformers' encoders.

        `pooler_output` (batch, hidden_size) is the input of a classifier's last linear layer, or None if the network
        has no pooler.
        """
        return_attentions, return_hidden = _requested_outputs(self.config, output_attentions, output_hidden_states)
        hidden = self.checked(attention_mask, input_ids, token_type_ids, position_ids, inputs_embeds)
        states = self.states(hidden, attention_mask, every_token=True, return_attentions=return_attentions)
        last = self.normed(states.hidden[-1])
        pooled = None if self.pooler is None else self.pooler(READOUTS[self.config.readout](last, attention_mask))
        return BaseModelOutputWithPooling(
            last_hidden_state=last,
            pooler_output=pooled,
            hidden_states=(*states.hidden[:-1], last) if return_hidden else None,
            attentions=cast(tuple[torch.Tensor, ...], tuple(states.attentions)) if return_attentions else None,
        )

    def checked(
        self, attention_mask: torch.Tensor | None, input_ids: torch.Tensor | None, *inputs: torch.Tensor | None
    ) -> torch.Tensor:
        """Check the inputs and return the result of `embedded`.

        Raises `ValueError` unless exactly one of `input_ids` and `inputs_embeds` is given. Also raises `ValueError` if
        `attention_mask` has the wrong shape.
        """
        if (input_ids is None) == (inputs[-1] is None):
            raise ValueError("give either input_ids or inputs_embeds, but not both")
        hidden = self.embedded(input_ids, *inputs)
        if attention_mask is not None and attention_mask.shape != hidden.shape[:2]:
            raise ValueError(
                f"attention_mask must have the shape of the tokens, {tuple(hidden.shape[:2])}, but has the shape "
                f"{tuple(attention_mask.shape)}; give one value per token"
            )
        return hidden

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states after the final norm, or unchanged if the network has no final norm."""
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def states(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None,
        every_token: bool = False,
        return_attentions: bool = False,
    ) -> States:
        """Run all layers on `hidden`, the result of `embedded`, and return hidden states and attention weights.

        If the readout is the first token, no other token is needed after the last attention block. The layers from that
        block on therefore compute only the first token, unless `every_token` is set. `every_token` does not change the
        result for the first token, even with quantisation.
        """
        mask = None if attention_mask is None else additive_mask(attention_mask, hidden)
        states = States([hidden], [None], [])
        for number in range(len(self.encoder.layer)):
            hidden, weights = self._layer_output(number, hidden, mask, every_token, return_attentions)
            positions = states.positions[-1]
            keep_tokens = cast(CompactBertLayer, self.encoder.layer[number]).keep_tokens
            if number >= self.first_token_from and not every_token:
                positions = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
            if keep_tokens and weights is not None:
                chosen = most_attended(weights, mask, keep_tokens)
                hidden = at_positions(hidden, chosen)
                mask = None if mask is None else mask.gather(3, chosen[:, None, None])
                positions = chosen if positions is None else positions.gather(1, chosen)
            states.hidden.append(hidden)
            states.positions.append(positions)
            states.attentions.append(weights if return_attentions else None)
        return states

    def _layer_output(
        self, number: int, hidden: torch.Tensor, mask: torch.Tensor | None, every_token: bool, return_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the hidden states and the attention weights of layer `number`.

        If the rest of the network needs only the first token, and if `every_token` is not set, the result contains only
        the first token.
        """
        first_only = number >= self.first_token_from
        if not first_only or (every_token and not self.encoder.layer[number].quantises_inputs):
            return self.encoder.run(number, hidden, mask, False, return_attentions)
        first_state, first_weights = self.encoder.run(number, hidden, mask, True, return_attentions)
        if not every_token:
            return first_state, first_weights
        all_states, weights = self.encoder.run(number, hidden, mask, False, return_attentions)
        if first_weights is not None and weights is not None:
            weights = torch.cat([first_weights, weights[:, :, 1:]], dim=2)
        return torch.cat([first_state, all_states[:, 1:]], dim=1), weights


@dataclass
class CompactBertOutput(SequenceClassifierOutput):
    """The output of a `CompactBert` that is called with `details`.

    This class adds three fields to the output of classifiers in transformers. `positions` holds the positions of the
    tokens in each hidden state (see `States`).
    """

    positions: tuple[torch.Tensor | None, ...] | None = None
    every_logits: tuple[torch.Tensor, ...] | None = None
    """The logits at each early exit, followed by the logits after the last layer. Each has the shape of `logits`."""
    left_after: torch.Tensor | None = None
    """The number of layers (batch,) after which each text exited; None if the network has no early exits."""


class CompactBert(CompactBertPreTrainedModel):
    """A sub-network with its head. This is the model that is trained, profiled and exported.

    The `logits` in its output are (batch, num_labels), or (batch, tokens, num_labels) if the readout is every token.
    `classifier` is the last linear layer, or None if the outputs of an encoder are the readout itself. An encoder may
    have an activation after this layer (`projection_act`).
    """

    def __init__(self, config: CompactBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.outputs
        self.bert = CompactBertModel(config)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        read_axis = Axis.HIDDEN if config.pooler_act is None else Axis.POOLED
        last_layer = nn.Linear(config.hidden_size, config.outputs)
        self.classifier = None if config.own_width else along(last_layer, None, read_axis)
        self.post_init()

    @property
    def layers(self) -> list[CompactBertLayer]:
        """The layers, from the first to the last."""
        return cast(list[CompactBertLayer], list(self.bert.encoder.layer))

    def classify(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits that the head computes from the last hidden states (batch, tokens, hidden_size)."""
        features = READOUTS[self.config.readout](self.bert.normed(hidden), attention_mask)
        if self.bert.pooler is not None:
            features = self.bert.pooler(features)
        logits: torch.Tensor = features if self.classifier is None else self.classifier(self.dropout(features))
        if self.config.projection_act is not None:
            logits = ACT2FN[self.config.projection_act](logits)
        return functional.normalize(logits.float(), dim=-1) if self.config.normalize else logits

    @can_return_tuple
    def forward(  # noqa: PLR0913 (the arguments of transformers)
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        details: bool = False,
        every_token: bool = False,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return the logits for token ids of shape (batch, sequence).

        The arguments, including `return_dict`, have the same meaning as for classifiers in transformers. Unknown
        arguments are ignored. With `labels`, the output has a loss, which depends on the readout and the `problem_type`
        of the configuration. Hidden states and attention weights contain all tokens that the network has not dropped.
        For a layer without attention, the attention weights are None.

        With `details`, the output is a `CompactBertOutput`. Its hidden states contain only the tokens on which the
        logits depend, unless `every_token` is set.
        """
        return_attentions, return_hidden = _requested_outputs(self.config, output_attentions, output_hidden_states)
        hidden = self.bert.checked(attention_mask, input_ids, token_type_ids, position_ids, inputs_embeds)
        every_token = every_token or (not details and (return_attentions or return_hidden))
        states = self.bert.states(hidden, attention_mask, every_token, return_attentions)
        logits = self.classify(states.hidden[-1], attention_mask)
        every_logits, left_after = (logits,), None
        if self.config.exit_threshold:
            early_exits = zip(self.layers[:-1], states.hidden[1:-1], strict=True)
            every_logits = (*(layer.exit(state[:, 0]) for layer, state in early_exits), logits)
            logits, left_after = first_confident(every_logits, self.config.exit_threshold)
        values: dict[str, Any] = {
            "loss": None if labels is None else task_loss(logits, labels, self.config),
            "logits": logits,
            "hidden_states": tuple(states.hidden) if return_hidden else None,
            "attentions": tuple(states.attentions) if return_attentions else None,
        }
        if not details:
            return SequenceClassifierOutput(**values)
        positions = tuple(states.positions) if return_hidden else None
        return CompactBertOutput(**values, positions=positions, every_logits=every_logits, left_after=left_after)


class CompactBertForSequenceClassification(CompactBert):
    """A sub-network that classifies or scores texts. `AutoModelForSequenceClassification` loads this class."""


class CompactBertForTokenClassification(CompactBert):
    """A sub-network that classifies every token of a text. `AutoModelForTokenClassification` loads this class."""


AUTO_MODELS: dict[NetworkType, tuple[str, type[CompactBertPreTrainedModel]]] = {
    "sequence_classifier": ("AutoModelForSequenceClassification", CompactBertForSequenceClassification),
    "token_classifier": ("AutoModelForTokenClassification", CompactBertForTokenClassification),
    "encoder": ("AutoModel", CompactBertModel),
}
"""The name of the Auto class in transformers that loads a network, and the class of the loaded model, keyed by network
type.

A loaded encoder returns the last hidden states. The readout and the projection are separate modules of
sentence-transformers in the encoder's folder.
"""


def register_auto_classes() -> None:
    """Let the Auto classes of transformers load exported sub-networks in this process without `trust_remote_code`.

    `nas.model.modeling` calls this function when it is imported. All code that works with sub-networks imports that
    module.
    """
    transformers.AutoConfig.register(CompactBertConfig.model_type, CompactBertConfig, exist_ok=True)
    for name, model in AUTO_MODELS.values():
        getattr(transformers, name).register(CompactBertConfig, model, exist_ok=True)


register_auto_classes()


def types_named(architectures: Iterable[str]) -> list[NetworkType]:
    """Return the network types to which class names from `config.json` belong. `encoder` is never returned."""
    endings = {kind: name.removeprefix("AutoModel") for kind, (name, _) in AUTO_MODELS.items()}
    names = list(architectures)
    return [kind for kind, ending in endings.items() if ending and any(name.endswith(ending) for name in names)]


def as_public_class(model: CompactBert) -> CompactBertPreTrainedModel:
    """Return a network as an object of the class that `AUTO_MODELS` names for its type. Parameters are not copied."""
    cls = AUTO_MODELS[model.config.network_type][1]
    if isinstance(model.bert, cls):
        return model.bert
    with torch.device("meta"):
        converted = cls(model.config)
    converted.load_state_dict(model.state_dict(), assign=True)
    return converted.eval()


def _requested_outputs(
    config: CompactBertConfig, attentions: bool | None, hidden_states: bool | None
) -> tuple[bool, bool]:
    """Return whether to output attention weights, and whether to output hidden states.

    If an argument is None, the configuration decides.
    """
    return_attentions = config.output_attentions if attentions is None else attentions
    return_hidden = config.output_hidden_states if hidden_states is None else hidden_states
    return bool(return_attentions), bool(return_hidden)


def first_confident(every_logits: tuple[torch.Tensor, ...], threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each text, the logits at its exit and the number of layers up to that exit.

    The exit is the first layer whose confidence (the probability of the likeliest class) reaches the threshold. If no
    layer reaches the threshold, the exit is the last layer.
    """
    stacked = torch.stack(every_logits)
    confident = stacked.float().softmax(dim=-1).amax(dim=-1) >= threshold
    confident[-1] = True
    first = confident.int().argmax(dim=0)
    return stacked[first, torch.arange(len(first), device=first.device)], first + 1


def task_loss(logits: torch.Tensor, labels: torch.Tensor, config: CompactBertConfig) -> torch.Tensor:
    """Return the loss that transformers uses for the configuration's readout and `problem_type`, computed in float32.

    If `problem_type` is missing, it is derived from the labels, as in the classes of transformers.
    """
    if config.readout == "every":
        token_loss: torch.Tensor = ForTokenClassification(logits.float(), labels, config)
        return token_loss
    regression = config.problem_type == "regression" or (config.problem_type is None and logits.shape[-1] == 1)
    loss: torch.Tensor = ForSequenceClassificationLoss(labels.float() if regression else labels, logits.float(), config)
    return loss
