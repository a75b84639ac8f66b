"""From and to Hugging Face's own `BertForSequenceClassification`."""

from __future__ import annotations

from transformers import BertConfig, BertForSequenceClassification, PreTrainedConfig

from nas.errors import ExportError, TeacherError
from nas.model.configuration import CompactBertConfig
from nas.model.modeling import CompactBertForSequenceClassification
from nas.space import Architecture, Layer, Shape

_SHARED = (
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
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


def shape_of(config: PreTrainedConfig) -> Shape:
    """The sizes of a BERT. Raises `TeacherError` for another family or activation."""
    if config.model_type != "bert":
        raise TeacherError(
            f"teacher: a model of type 'bert' is needed, but got {config.model_type!r}; use a BERT checkpoint"
        )
    if config.hidden_act not in ACTIVATIONS:
        raise TeacherError(
            f"teacher: hidden_act must be one of {', '.join(ACTIVATIONS)}, but got {config.hidden_act!r}; "
            "use a teacher with one of them"
        )
    if config.hidden_size % config.num_attention_heads:
        raise TeacherError(
            f"teacher: num_attention_heads must divide hidden_size, but got {config.num_attention_heads} and "
            f"{config.hidden_size}; use a teacher with whole heads"
        )
    return Shape(
        num_hidden_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
    )


def compact_config(teacher: PreTrainedConfig) -> CompactBertConfig:
    """The configuration of the teacher as a `CompactBert`."""
    shape = shape_of(teacher)
    layers = (
        Layer(index, shape.num_attention_heads, shape.intermediate_size) for index in range(shape.num_hidden_layers)
    )
    shared = {key: getattr(teacher, key) for key in _SHARED}
    config = CompactBertConfig(attention_head_size=shape.head_size, **shared)
    return config.with_architecture(Architecture(hidden_size=shape.hidden_size, layers=tuple(layers)))


def from_stock(teacher: BertForSequenceClassification) -> CompactBertForSequenceClassification:
    """The teacher as a `CompactBert` of the same function, with copied weights, in evaluation mode."""
    model = CompactBertForSequenceClassification(compact_config(teacher.config))
    model.load_state_dict(teacher.state_dict())
    return model.eval()


def fits_stock(config: CompactBertConfig) -> bool:
    """Whether stock BERT can express it: uniform layers, heads that fill the hidden size, no compression."""
    architecture = config.architecture
    kinds = {(layer.num_attention_heads, layer.intermediate_size) for layer in architecture.layers}
    return (
        architecture.choices == {"none"}
        and len(kinds) == 1
        and next(iter(kinds))[0] * config.attention_head_size == config.hidden_size
    )


def to_stock(model: CompactBertForSequenceClassification) -> BertForSequenceClassification:
    """The same function as a stock BERT. Raises `ExportError` where `fits_stock` is false."""
    config = model.config
    if not fits_stock(config):
        raise ExportError(
            f"{config.architecture.describe()}: stock BERT needs equal uncompressed layers whose heads fill "
            "the hidden size; export it as CompactBert"
        )
    layer = config.architecture.layers[0]
    stock = BertForSequenceClassification(
        BertConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=layer.num_attention_heads,
            intermediate_size=layer.intermediate_size,
            **{key: getattr(config, key) for key in _SHARED},
        )
    )
    stock.load_state_dict(model.state_dict())
    return stock.eval()
