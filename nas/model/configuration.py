"""The configuration of a sub-network: a BERT whose every layer has sizes and compression choices of its own."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig  # as transformers 4 has it too, with which Optimum reads an export's sizes

from nas.architecture import Architecture, Layer
from nas.form import NetworkType, Readout

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Everything that a network may be fed, int64 (batch, sequence)."""
_BLOCK_FORM = (
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
    """Everything that defines a sub-network but its weights.

    `layers` holds one mapping a layer: `num_attention_heads`, `intermediate_size`, the compression choices
    `attention` and `feed_forward`, and `source`, the teacher's layer that it came from. The size of a head,
    `attention_head_size`, is the teacher's; heads times head size need not equal `hidden_size`.

    With `exit_threshold` above 0 there is a classifier after each layer but the last: a text that one is as sure of
    (probability of the likeliest class) gets its logits from there.

    `network_type`, `readout` and `normalize` are the network's form; see `NetworkForm`. `pooler_act` is the activation
    of a dense layer between readout and outputs, or None where there is no such layer. `projection_dim` is the number
    of outputs of an encoder, and None of a classifier, which has one for each label.

    What differs between families of teachers: `family` is the teacher's `model_type`; `embedding_size` is the width of
    embeddings that are projected to `hidden_size` (ELECTRA), or None where there is no projection; `type_vocab_size` is
    0 where there are no token types; `max_position_embeddings` counts the positions that a text can take, and
    `position_table` says whether there is an embedding for each of them.

    Attention knows where tokens stand by a learnt bias for each distance where `relative_attention_num_buckets` is set
    (MPNet), and by rotation where `rope_thetas` is (ModernBERT): one base of the rotation frequencies for each layer of
    the teacher. `attention_windows` holds the distance up to which each layer of the teacher attends, None for any.

    With `norm_first` a block normalises its input and not its output, and the last hidden states are normalised; the
    attention block of the teacher's first layer then has no norm. `gated` feed-forward blocks multiply the activation
    by a second linear layer. `attention_bias`, `feed_forward_bias`, `norm_bias` and `pooler_bias` say which parts have
    biases; `pooler_norm` says whether a norm follows the pooler's activation.
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
    hidden_act: str = "gelu"
    network_type: NetworkType = "sequence_classifier"
    readout: Readout = "first"
    normalize: bool = False
    projection_dim: int | None = None
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
        """The number of outputs."""
        return int(self.projection_dim or self.num_labels or 1)

    @property
    def embedding_width(self) -> int:
        """The width of the embedding tables and their norm."""
        return self.embedding_size or self.hidden_size

    @property
    def block_form(self) -> dict[str, Any]:
        """What the blocks of all layers have in common beside their sizes, where it is not as in BERT."""
        usual = CompactBertConfig()
        return {name: value for name in _BLOCK_FORM if (value := getattr(self, name)) != getattr(usual, name)}

    @property
    def knows_distances(self) -> bool:
        """Whether attention depends on the distance between tokens."""
        return bool(self.relative_attention_num_buckets or self.rope_thetas)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the network is fed: no `token_type_ids` where all tokens are of one type."""
        return INPUTS if self.type_vocab_size > 1 else INPUTS[:2]

    @property
    def architecture(self) -> Architecture:
        """The architecture that this configuration describes."""
        layers = tuple(Layer(**layer) for layer in self.layers or ())
        return Architecture(self.hidden_size, layers, self.embedding, self.exit_threshold)

    def with_architecture(self, architecture: Architecture) -> CompactBertConfig:
        """The same vocabulary, labels and details with another architecture."""
        values = self.to_dict()
        values.pop("num_hidden_layers")
        values.update(
            hidden_size=architecture.hidden_size,
            embedding=architecture.embedding,
            exit_threshold=architecture.exit_threshold,
            layers=[layer.to_json() for layer in architecture.layers],
        )
        return CompactBertConfig(**values)
