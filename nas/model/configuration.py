"""The configuration of a sub-network: a BERT in which every layer has its own sizes and compression methods."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig  # also in transformers 4, with which Optimum reads an export's sizes

from nas.architecture import Architecture, Layer
from nas.form import NetworkType, Readout

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""The names of all inputs that a network may have. Each input is int64 of shape (batch, sequence)."""
_BLOCK_FORM_SETTINGS = (
    "position_table",
    "relative_attention_num_buckets",
    "rope_thetas",
    "attention_windows",
    "norm_first",
    "norm_bias",
    "attention_bias",
    "gated",
    "feed_forward_bias",
    "pooler_norm",
    "pooler_bias",
)


class CompactBertConfig(PretrainedConfig):
    """All settings that define a sub-network, but not its weights.

    `layers` holds one dictionary per layer, with the keys `num_attention_heads`, `intermediate_size`, `attention` and
    `feed_forward` (the compression methods of the two blocks), and `source` (the index of the corresponding layer in
    the teacher). If the layer drops tokens, the dictionary also has the key `keep_tokens`, the number of tokens that
    the layer passes on. `attention_head_size` is the teacher's head size, so the number of heads times the head size
    may differ from `hidden_size`. `embedding` is the compression method of the token embeddings.

    If `exit_threshold` is above 0, each layer except the last has a classifier. A text exits at the first layer whose
    classifier gives the likeliest class at least the probability `exit_threshold`. The logits of the text are those of
    this classifier.

    `calibrated` says whether the weights include the ranges of activations that some compression methods need (see
    `nas.model.calibration`).

    `network_type` is the corresponding type of model in transformers. `readout` is the part of the last hidden states
    that the head reads: the first token, the mean over all tokens, or every token. `normalize` says whether outputs are
    scaled to length 1. `pooler_act` is the activation of a dense layer between readout and outputs, or None if there is
    no such layer. `projection_dim` is the number of outputs to which an encoder projects its readout. `projection_dim`
    is None for classifiers, which have one output per label, and for encoders whose outputs are the readout itself.
    `projection_act` is the activation after this projection, or None if there is none.

    The settings below cover the differences between families of teachers. `family` is the teacher's `model_type`.
    `embedding_size` is the width of embeddings that are projected to `hidden_size` (ELECTRA), or None if there is no
    projection. `type_vocab_size` is 0 if there are no token types. `max_position_embeddings` is the largest number of
    tokens in a text. `position_table` says whether each position has a learnt embedding.

    `relative_attention_num_buckets` is the number of distance ranges for which attention has a learnt bias (MPNet), or
    None if attention has no such bias. `rope_thetas` holds the base of the rotary frequencies for each layer of the
    teacher (ModernBERT), or is None if queries and keys are not rotated. `attention_windows` holds a distance for each
    layer of the teacher. Tokens at larger distances do not attend to each other. The distance is None if attention is
    not limited.

    With `norm_first`, each block normalises its input instead of its output, and a final norm follows the last layer.
    In this case, the attention block of the teacher's first layer has no norm. With `gated`, feed-forward blocks
    multiply the activation by the output of a second linear layer. `attention_bias`, `feed_forward_bias`, `norm_bias`
    and `pooler_bias` say whether the attention blocks, the feed-forward blocks, the norms and the pooler have biases.
    `pooler_norm` says whether a norm follows the pooler's activation.
    """

    model_type = "compact_bert"

    family: str = "bert"
    vocab_size: int = 30522
    embedding_size: int | None = None
    hidden_size: int = 768
    attention_head_size: int = 64
    layers: list[dict[str, Any]] | None = None
    embedding: str = "none"
    exit_threshold: float = 0.0
    calibrated: bool = False
    hidden_act: str = "gelu"
    network_type: NetworkType = "sequence_classifier"
    readout: Readout = "first"
    normalize: bool = False
    projection_dim: int | None = None
    projection_act: str | None = None
    pooler_act: str | None = "tanh"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    pooler_norm: bool = False
    pooler_bias: bool = True
    max_position_embeddings: int = 512
    position_table: bool = True
    relative_attention_num_buckets: int | None = None
    rope_thetas: list[float] | None = None
    attention_windows: list[int | None] | None = None
    norm_first: bool = False
    norm_bias: bool = True
    attention_bias: bool = True
    gated: bool = False
    feed_forward_bias: bool = True
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    num_hidden_layers: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        self.layers = list(self.layers or [])
        self.num_hidden_layers = len(self.layers)
        super().__post_init__(**kwargs)

    @property
    def outputs(self) -> int:
        """The number of outputs per text, or per token if the readout is every token."""
        return self.hidden_size if self.own_width else int(self.projection_dim or self.num_labels or 1)

    @property
    def own_width(self) -> bool:
        """Whether the network is an encoder without a projection, so that outputs are as wide as hidden states."""
        return self.network_type == "encoder" and self.projection_dim is None

    @property
    def embedding_width(self) -> int:
        """The width of the embedding tables and of their norm."""
        return self.embedding_size or self.hidden_size

    @property
    def block_form(self) -> dict[str, Any]:
        """The settings, except for sizes, in which the network's blocks differ from BERT's, keyed by setting name."""
        defaults = CompactBertConfig()
        return {
            name: value for name in _BLOCK_FORM_SETTINGS if (value := getattr(self, name)) != getattr(defaults, name)
        }

    @property
    def knows_distances(self) -> bool:
        """Whether attention depends on the distances between tokens."""
        return bool(self.relative_attention_num_buckets or self.rope_thetas)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the network's inputs. If there are fewer than two token types, `token_type_ids` is left out."""
        return INPUTS if self.type_vocab_size > 1 else INPUTS[:2]

    @property
    def architecture(self) -> Architecture:
        """The architecture that this configuration describes."""
        layers = tuple(Layer(**layer) for layer in self.layers or ())
        return Architecture(self.hidden_size, layers, self.embedding, self.exit_threshold)

    def with_architecture(self, architecture: Architecture) -> CompactBertConfig:
        """Return a copy of the configuration with this architecture, in which `calibrated` is false.

        All other settings remain unchanged.
        """
        values = self.to_dict()
        values.pop("num_hidden_layers")
        values.update(
            hidden_size=architecture.hidden_size,
            embedding=architecture.embedding,
            exit_threshold=architecture.exit_threshold,
            calibrated=False,
            layers=[layer.to_json() for layer in architecture.layers],
        )
        return CompactBertConfig(**values)
