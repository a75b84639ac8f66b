"""The families of teachers: what each calls the settings and parameters of a `CompactBert`, and where it differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from nas.errors import TeacherError
from nas.form import NetworkType


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of encoder, in terms of `CompactBertConfig` and the parameters of a `CompactBert`."""

    pooler_act: str
    """What the head of its sequence classifier computes between the two linear layers."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Parts of our parameters' names and its own, replaced in this order."""
    sequence_head: tuple[tuple[str, str], ...] = ()
    """The same of the head of its sequence classifier, replaced before the others."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Our settings and its own, where the two names differ."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Our settings that it has no name for, with the value that it uses."""
    has_embedding_size: bool = False
    """Whether its embeddings can have a width of their own, with a projection to `hidden_size` behind them."""
    positions_follow_padding: bool = False
    """Whether its first token takes row `pad_token_id + 1` of the position table."""

    def read(self, config: PreTrainedConfig, setting: str) -> Any:
        """The value of one of our settings in its configuration."""
        return self.constants[setting] if setting in self.constants else getattr(config, self.name(setting))

    def name(self, setting: str) -> str:
        """What it calls one of our settings."""
        return self.settings.get(setting, setting)

    def parameter(self, name: str, network_type: NetworkType = "sequence_classifier") -> str:
        """What it calls one of our parameters, in transformers' model of that type."""
        head = self.sequence_head if network_type == "sequence_classifier" else ()
        for ours, its_own in (*head, *self.parameters):
            name = name.replace(ours, its_own)
        return name.partition(".")[2] if network_type == "encoder" else name

    def first_position(self, pad_token_id: int | None) -> int:
        """The row of its position table that the first token takes. The rows before it serve no token."""
        return (pad_token_id or 0) + 1 if self.positions_follow_padding else 0


_DENSE_HEAD = (("classifier.", "classifier.out_proj."), ("bert.pooler.dense.", "classifier.dense."))

FAMILIES: dict[str, Family] = {
    "bert": Family(pooler_act="tanh"),
    "roberta": Family(
        pooler_act="tanh",
        parameters=(("bert.", "roberta."),),
        sequence_head=_DENSE_HEAD,
        positions_follow_padding=True,
    ),
    "distilbert": Family(
        pooler_act="relu",
        sequence_head=(("bert.pooler.dense.", "pre_classifier."),),
        parameters=(
            ("bert.embeddings.", "distilbert.embeddings."),
            ("bert.encoder.", "distilbert.transformer."),
            (".attention.self.query.", ".attention.q_lin."),
            (".attention.self.key.", ".attention.k_lin."),
            (".attention.self.value.", ".attention.v_lin."),
            (".attention.output.dense.", ".attention.out_lin."),
            (".attention.output.LayerNorm.", ".sa_layer_norm."),
            (".intermediate.dense.", ".ffn.lin1."),
            (".output.dense.", ".ffn.lin2."),
            (".output.LayerNorm.", ".output_layer_norm."),
        ),
        settings={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "classifier_dropout": "seq_classif_dropout",
        },
        constants={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
    ),
    "electra": Family(
        pooler_act="gelu",
        parameters=(("bert.", "electra."),),
        sequence_head=_DENSE_HEAD,
        has_embedding_size=True,
    ),
}


def family_of(model_type: str) -> Family:
    """The family of a teacher's `model_type`. Raises `TeacherError` for one that is not supported."""
    if model_type not in FAMILIES:
        *others, last = FAMILIES
        raise TeacherError(
            f"teacher: a model of type {', '.join(others)} or {last} is needed, but got {model_type!r}; "
            "use a checkpoint of one of them"
        )
    return FAMILIES[model_type]
