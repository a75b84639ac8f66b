"""Convert between `CompactBert` and the model classes of transformers, without changing what the network computes.

`from_stock` converts a teacher to a `CompactBert`. `to_stock` converts a network to its family's class in transformers,
if that class can express the network. For a network that embeds texts, the family's class is only the encoder, which
returns the last hidden states.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from nas.architecture import Architecture, Layer
from nas.errors import ExportError, TeacherError
from nas.form import NetworkForm, NetworkType
from nas.model.configuration import CompactBertConfig
from nas.model.families import FAMILIES, Family, family_of
from nas.model.modeling import AUTO_MODELS, CompactBert
from nas.space import Shape

_SHARED_SETTINGS = (
    "vocab_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "id2label",
    "label2id",
    "problem_type",
)
AUTO_CLASSES: dict[NetworkType, Any] = {kind: getattr(transformers, name) for kind, (name, _) in AUTO_MODELS.items()}
"""The Auto classes of transformers that load teachers, keyed by network type."""
_CLASSIFIER_PARAMETERS = ("classifier.weight", "classifier.bias")
_LABEL_SETTINGS = {"id2label", "label2id", "problem_type"}
_CLASSIFIER_FORM = NetworkForm()


def shape_of(config: PreTrainedConfig) -> Shape:
    """Return a teacher's dimensions: number of layers, hidden size, number of heads and intermediate size.

    Raises `TeacherError` if the teacher's family is not supported, or if a `CompactBert` cannot compute the same
    function as the teacher.
    """
    family = family_of(config.model_type)
    _check_function(family, config)
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    values = {name: family.read(config, name) for name in sizes}
    if values["hidden_size"] % values["num_attention_heads"]:
        raise TeacherError(
            f"teacher.model: num_attention_heads must divide hidden_size, but got {values['num_attention_heads']} and "
            f"{values['hidden_size']}; use another model"
        )
    return Shape(**values)


def _check_function(family: Family, config: PreTrainedConfig) -> None:
    """Raise `TeacherError` if the configuration describes a function that a `CompactBert` cannot compute."""
    for setting, (value, supported) in family.rules(config).items():
        if value not in supported:
            raise TeacherError(
                f"teacher.model: {setting} must be {' or '.join(map(str, supported))}, but got {value!r}; use another "
                "model"
            )
    if family.positions_follow_padding and config.pad_token_id is None:
        raise TeacherError(
            "teacher.model: pad_token_id must be a number, but got None; set it in the model's config.json"
        )


def compact_config(teacher: PreTrainedConfig, form: NetworkForm = _CLASSIFIER_FORM) -> CompactBertConfig:
    """Return the configuration of a `CompactBert` that computes the same function as a teacher.

    An encoder has `form.projection_dim` outputs or, if this is None, as many as the teacher has hidden units.
    Sub-networks with fewer hidden units also have this number of outputs. If `form.own_width` is set, each encoder
    instead has as many outputs as it has hidden units itself. Raises `TeacherError` for the same reasons as `shape_of`.
    """
    shape, family = shape_of(teacher), family_of(teacher.model_type)
    form = family.form(teacher, form)
    layers = (
        Layer(index, shape.num_attention_heads, shape.intermediate_size) for index in range(shape.num_hidden_layers)
    )
    values = {key: family.read(teacher, key) for key in _SHARED_SETTINGS} | {"pooler_act": family.pooler_act}
    values |= family.compact(teacher)
    if form.network_type not in family.pooled:
        values["pooler_act"] = None
    values["max_position_embeddings"] -= family.first_position(teacher.pad_token_id)
    if family.has_embedding_size and teacher.embedding_size != shape.hidden_size:
        values["embedding_size"] = teacher.embedding_size
    if form.network_type == "encoder":
        values = {name: value for name, value in values.items() if name not in _LABEL_SETTINGS}
        values["projection_dim"] = None if form.own_width else form.projection_dim or shape.hidden_size
        values["projection_act"] = form.projection_act
    config = CompactBertConfig(
        family=teacher.model_type,
        network_type=form.network_type,
        readout=form.readout,
        normalize=form.normalize,
        attention_head_size=shape.head_size,
        **values,
    )
    return config.with_architecture(Architecture(hidden_size=shape.hidden_size, layers=tuple(layers)))


def form_of(config: CompactBertConfig) -> NetworkForm:
    """Return the `NetworkForm` of networks with this configuration."""
    return NetworkForm(
        config.network_type,
        config.readout,
        config.normalize,
        config.own_width,
        config.projection_dim,
        config.projection_act,
    )


def from_stock(
    teacher: PreTrainedModel, form: NetworkForm = _CLASSIFIER_FORM, projection: nn.Linear | None = None
) -> CompactBert:
    """Return a `CompactBert` in evaluation mode that computes the same function as a teacher. The weights are copied.

    `teacher` must be of the class that `AUTO_CLASSES` names for the network type of `form`. Unless `form.own_width` is
    set, an encoder gets an additional last linear layer: a copy of `projection` or, if this is None, the identity. With
    this layer, networks with fewer hidden units can project their readout to the teacher's width.

    RoBERTa skips padding when it counts positions, but a `CompactBert` does not. Padding must therefore follow the
    text.
    """
    family, teacher_state = family_of(teacher.config.model_type), teacher.state_dict()
    model, kind = CompactBert(compact_config(teacher.config, form)), form.network_type
    compact_state = model.state_dict()
    added = [name for name in _CLASSIFIER_PARAMETERS if kind == "encoder" and name in compact_state]
    last_layer = {name: _identity(compact_state.pop(name)) for name in added}
    if projection is not None:
        last_layer = {f"classifier.{name}": value for name, value in projection.state_dict().items()}
    model.load_state_dict(family.to_compact(teacher_state, compact_state, teacher.config, kind) | last_layer)
    return model.eval()


def _identity(parameter: torch.Tensor) -> torch.Tensor:
    """Return the value of a weight or bias with this shape in a linear layer that computes the identity."""
    return torch.eye(len(parameter)) if parameter.dim() == 2 else torch.zeros_like(parameter)


def fits_stock(model: CompactBert) -> bool:
    """Whether the model class of the network's family in transformers can express the network.

    All layers must have the same sizes, and the number of heads times the head size must equal the hidden size. The
    network must not have compressed blocks, early exits or dropped tokens. A projection between embeddings and layers
    of the same width is not allowed either, because ELECTRA's class would leave such a projection out. Families may
    have further conditions.
    """
    config, architecture = model.config, model.config.architecture
    layer_sizes = {(layer.num_attention_heads, layer.intermediate_size) for layer in architecture.layers}
    return (
        architecture.choices == {"none"}
        and not architecture.exit_threshold
        and not any(layer.keep_tokens for layer in architecture.layers)
        and len(layer_sizes) == 1
        and next(iter(layer_sizes))[0] * config.attention_head_size == config.hidden_size
        and config.embedding_size != config.hidden_size
        and FAMILIES[config.family].expresses(config, model.state_dict())
    )


def to_stock(model: CompactBert) -> PreTrainedModel:
    """Convert a network to its family's model class in transformers.

    Raises `ExportError` if `fits_stock` is false.
    """
    config = model.config
    if not fits_stock(model):
        raise ExportError(
            f"{config.architecture.describe()}: the {config.family} class of transformers cannot express this network, "
            "since all layers must be uncompressed and of the same sizes, with heads times head size equal to the "
            "hidden size; export it as CompactBert"
        )
    family, layer = FAMILIES[config.family], config.architecture.layers[0]
    unused_rows = family.first_position(config.pad_token_id)
    shared = set(_SHARED_SETTINGS) - (_LABEL_SETTINGS if config.network_type == "encoder" else set())
    values = {key: getattr(config, key) for key in shared} | {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": layer.num_attention_heads,
        "intermediate_size": layer.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings + unused_rows,
    }
    if family.has_embedding_size:
        values["embedding_size"] = config.embedding_width
    own_settings = {family.name(key): value for key, value in values.items() if key not in family.constants}
    own_settings |= family.stock(config)
    stock: PreTrainedModel = AUTO_CLASSES[config.network_type].from_config(
        AutoConfig.for_model(config.family, **own_settings)
    )
    state: dict[str, torch.Tensor] = model.state_dict()
    if config.network_type == "encoder":  # its class has no last linear layer, but may have an unused pooler
        state = {name: value for name, value in state.items() if name not in _CLASSIFIER_PARAMETERS}
        pooler = {name: value for name, value in stock.state_dict().items() if name.startswith("pooler.")}
        state |= {f"bert.{name}": torch.zeros_like(value) for name, value in pooler.items()}
    stock.load_state_dict(family.to_stock(state, config))
    return stock.eval()
