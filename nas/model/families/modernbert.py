"""ModernBERT (Warner et al., arXiv:2412.13663).

Blocks normalise their input (pre-norm), positions are encoded as rotations of queries and keys (RoPE), and feed-forward
blocks are gated (GLU). Two out of three layers attend only to nearby tokens, and most parts have no biases. In the
implementation in the library transformers, one matrix contains the query, key and value projections, and another matrix
contains the two linear layers at the start of a gated block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedConfig

from nas.form import NetworkForm
from nas.model.configuration import CompactBertConfig
from nas.model.families.base import ACTIVATIONS, Family, Rules

_LOCAL_ATTENTION, _FULL_ATTENTION = "sliding_attention", "full_attention"
_NO_SPECIAL_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
"""Special token ids that are set to None. Otherwise, the configuration would use the ids of its default vocabulary,
which may differ from the tokenizer's ids.
"""


class ModernBert(Family):
    """The ModernBERT family. Whether a layer attends only to nearby tokens depends on its index in the teacher."""

    def rules(self, config: PreTrainedConfig) -> Rules:
        rules = super().rules(config)
        rules["classifier_activation"] = config.classifier_activation, ACTIVATIONS
        for kind in set(config.layer_types):
            rules[f"layer_types ({kind})"] = kind, (_LOCAL_ATTENTION, _FULL_ATTENTION)
            rope_type = config.rope_parameters.get(kind, {}).get("rope_type", "default")
            rules[f"rope_parameters.{kind}.rope_type"] = rope_type, ("default",)
        return rules

    def form(self, config: PreTrainedConfig, form: NetworkForm) -> NetworkForm:
        """Return `form`, with the readout `mean` if the teacher's sequence classifier reads the mean of all tokens."""
        reads_mean = form.network_type == "sequence_classifier" and config.classifier_pooling == "mean"
        return replace(form, readout="mean") if reads_mean else form

    def compact(self, config: PreTrainedConfig) -> dict[str, Any]:
        local = [kind == _LOCAL_ATTENTION for kind in config.layer_types]
        return {
            "pooler_act": config.classifier_activation,
            "pooler_norm": True,
            "pooler_bias": config.classifier_bias,
            "position_table": False,
            "norm_first": True,
            "norm_bias": config.norm_bias,
            "attention_bias": config.attention_bias,
            "feed_forward_bias": config.mlp_bias,
            "gated": True,
            "rope_thetas": [float(config.rope_parameters[kind]["rope_theta"]) for kind in config.layer_types],
            "attention_windows": [config.local_attention // 2 if is_local else None for is_local in local],
        }

    def stock(self, config: CompactBertConfig) -> dict[str, Any]:
        sources = [layer.source for layer in config.architecture.layers]
        windows, thetas = config.attention_windows or [], config.rope_thetas or []
        kinds = [_FULL_ATTENTION if windows[source] is None else _LOCAL_ATTENTION for source in sources]
        theta_of_kind = {kind: thetas[source] for source, kind in zip(sources, kinds, strict=True)}
        width = next((window for window in windows if window is not None), None)
        return (
            {
                "classifier_activation": config.pooler_act or "gelu",
                "classifier_bias": config.pooler_bias,
                "classifier_pooling": "mean" if config.readout == "mean" else "cls",
                "norm_bias": config.norm_bias,
                "attention_bias": config.attention_bias,
                "mlp_bias": config.feed_forward_bias,
                "layer_types": kinds,
                "rope_parameters": {
                    kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in theta_of_kind.items()
                },
            }
            | _NO_SPECIAL_TOKENS
            | ({} if width is None else {"local_attention": 2 * width})
        )

    def expresses(self, config: CompactBertConfig, state: Mapping[str, torch.Tensor]) -> bool:
        """Whether ModernBERT's class in transformers can express a network.

        This is the case only if the network begins with the teacher's first layer, because in this class, the first
        layer has no attention norm, and all other layers have one.
        """
        return config.architecture.layers[0].source == 0


FAMILY = ModernBert(
    model_type="modernbert",
    title="ModernBERT",
    base="model",
    token_embeddings="embeddings.tok_embeddings.weight",
    pooler_act="gelu",
    pooled=frozenset({"sequence_classifier", "token_classifier"}),
    parameters=(
        ("bert.embeddings.word_embeddings.", "model.embeddings.tok_embeddings."),
        ("bert.embeddings.LayerNorm.", "model.embeddings.norm."),
        ("bert.encoder.layer.", "model.layers."),
        ("bert.final_norm.", "model.final_norm."),
        ("bert.pooler.dense.", "head.dense."),
        ("bert.pooler.LayerNorm.", "head.norm."),
        (".attention.self.query.", ".attn.Wqkv."),
        (".attention.self.key.", ".attn.Wqkv."),
        (".attention.self.value.", ".attn.Wqkv."),
        (".attention.output.dense.", ".attn.Wo."),
        (".attention.output.LayerNorm.", ".attn_norm."),
        (".intermediate.dense.", ".mlp.Wi."),
        (".intermediate.gate.", ".mlp.Wi."),
        (".output.dense.", ".mlp.Wo."),
        (".output.LayerNorm.", ".mlp_norm."),
    ),
    fused={
        "attention.self.query": (0, 3),
        "attention.self.key": (1, 3),
        "attention.self.value": (2, 3),
        "intermediate.dense": (0, 2),
        "intermediate.gate": (1, 2),
    },
    settings={
        "hidden_act": "hidden_activation",
        "layer_norm_eps": "norm_eps",
        "hidden_dropout_prob": "mlp_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    constants={"type_vocab_size": 0},
    own_settings=(
        "norm_bias",
        "attention_bias",
        "mlp_bias",
        "classifier_bias",
        "classifier_activation",
        "classifier_pooling",
        "layer_types",
        "rope_parameters",
        "rope_scaling",
    ),
    own_counts=("local_attention", "global_attn_every_n_layers"),
    own_numbers=("global_rope_theta", "local_rope_theta"),
)
