"""MPNet (Song et al., arXiv:2004.09297): BERT with a learnt bias for the distance between two tokens.

All layers of an MPNet share one table of biases. A `CompactBert` has a copy per layer, because the heads of each
layer are ordered separately.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from nas.form import NetworkType
from nas.model.configuration import CompactBertConfig
from nas.model.families.base import CLASSIFIER_OF_TWO, Family

_BIAS_TABLE = ".attention.self.positions.relative_attention_bias.weight"
_BUCKETS = "relative_attention_num_buckets"
_UNCOUNTED_TOKEN = 1
"""The id of the token that is skipped when positions are counted. It does not depend on `pad_token_id`."""


class MPNet(Family):
    """The MPNet family, in which all layers share one table of biases."""

    def parameter(self, name: str, network_type: NetworkType = "sequence_classifier") -> str:
        if name.endswith(_BIAS_TABLE):
            name = "bert.encoder.relative_attention_bias.weight"
        return super().parameter(name, network_type)

    def uncounted(self, pad_token_id: int | None) -> int | None:
        return _UNCOUNTED_TOKEN

    def compact(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {_BUCKETS: config.relative_attention_num_buckets}

    def stock(self, config: CompactBertConfig) -> dict[str, Any]:
        return {_BUCKETS: config.relative_attention_num_buckets}

    def expresses(self, config: CompactBertConfig, state: Mapping[str, torch.Tensor]) -> bool:
        first, *others = (value for name, value in state.items() if name.endswith(_BIAS_TABLE))
        return all(torch.equal(first, table) for table in others)

    def to_stock(self, state: Mapping[str, torch.Tensor], config: CompactBertConfig) -> dict[str, torch.Tensor]:
        duplicates = [name for name in state if name.endswith(_BIAS_TABLE)][1:]
        return super().to_stock({name: value for name, value in state.items() if name not in duplicates}, config)


FAMILY = MPNet(
    model_type="mpnet",
    title="MPNet",
    base="mpnet",
    pooler_act="tanh",
    parameters=(
        ("bert.", "mpnet."),
        (".attention.self.query.", ".attention.attn.q."),
        (".attention.self.key.", ".attention.attn.k."),
        (".attention.self.value.", ".attention.attn.v."),
        (".attention.output.dense.", ".attention.attn.o."),
        (".attention.output.LayerNorm.", ".attention.LayerNorm."),
    ),
    sequence_head=CLASSIFIER_OF_TWO,
    constants={"type_vocab_size": 0, "classifier_dropout": None},
    own_counts=(_BUCKETS,),
)
