"""The contract of a family of teachers: how its models are converted to a `CompactBert` and back.

Each family has one file, which defines a `Family`, and one line in the registry. A `Family` states how its models name
the settings and parameters of a `CompactBert`, and how their function differs from BERT's. `nas/model/stock.py` and
`nas/model/checkpoint.py` use it to convert and load models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedConfig

from nas.form import NetworkForm, NetworkType
from nas.model.configuration import CompactBertConfig

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
"""The activations that a `CompactBert` can compute in torch and in ONNX."""
_POSITION_TABLE = "bert.embeddings.position_embeddings.weight"
Rules = dict[str, tuple[Any, tuple[Any, ...]]]
"""For each setting, named as in the family's configuration: its value, and the values that a `CompactBert` supports."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of encoders: how its configuration and parameters correspond to a `CompactBert`.

    In the names of this class, "compact" refers to `CompactBertConfig` and `CompactBert`, and "own" and "stock" to the
    family's classes in transformers.
    """

    model_type: str
    """The family's `model_type` in transformers."""
    title: str
    """The family's name in messages and reports."""
    base: str
    """The first part of the encoder's parameter names in a model with a head."""
    token_embeddings: str = "embeddings.word_embeddings.weight"
    """The name of the token embeddings' weight within the encoder."""
    pooler_act: str
    """The activation between the two linear layers in the head of the family's sequence classifier."""
    pooled: frozenset[NetworkType] = frozenset({"sequence_classifier"})
    """The network types whose head has two linear layers, of which the first one is the pooler."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Replacements that turn the name of a `CompactBert` parameter into that of the family's class in transformers,
    each as a pair of old and new text. They apply in this order.
    """
    sequence_head: tuple[tuple[str, str], ...] = ()
    """Replacements in parameter names that apply only to sequence classifiers, before those in `parameters`."""
    fused: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """For each `CompactBert` module that the family's class joins with others into one module: its index among the
    joined modules, and their number.
    """
    settings: Mapping[str, str] = field(default_factory=dict)
    """For each `CompactBertConfig` setting that the family's configuration names differently: its name there."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """The `CompactBertConfig` settings that the family's configuration lacks, with the values that the family uses."""
    own_settings: tuple[str, ...] = ()
    """Further settings of the family's configuration that affect what the model computes. The methods `compact` and
    `form` convert them.
    """
    own_counts: tuple[str, ...] = ()
    """Further settings of the family's configuration whose values must be whole numbers above 0."""
    own_numbers: tuple[str, ...] = ()
    """Further settings of the family's configuration whose values must be numbers above 0."""
    has_embedding_size: bool = False
    """Whether embeddings can have a width other than `hidden_size`, followed by a projection to `hidden_size`."""
    positions_follow_padding: bool = False
    """Whether a text's first token uses row `pad_token_id + 1` of the position table, as in RoBERTa."""

    def read(self, config: PreTrainedConfig, setting: str) -> Any:
        """Return the value that a `CompactBertConfig` setting has in a configuration of this family."""
        return self.constants[setting] if setting in self.constants else getattr(config, self.name(setting))

    def name(self, setting: str) -> str:
        """Return the name that the family's configuration uses for a setting of `CompactBertConfig`."""
        return self.settings.get(setting, setting)

    def parameter(self, name: str, network_type: NetworkType = "sequence_classifier") -> str:
        """Return the name that a `CompactBert` parameter has in the family's transformers class for a network type."""
        head = self.sequence_head if network_type == "sequence_classifier" else ()
        for compact_name, own_name in (*head, *self.parameters):
            name = name.replace(compact_name, own_name)
        return name.partition(".")[2] if network_type == "encoder" else name

    def uncounted(self, pad_token_id: int | None) -> int | None:
        """Return the id of the token that is skipped when positions are counted; None if no token is skipped.

        If a token is skipped, the first token of a text uses row id + 1 of the position table.
        """
        return pad_token_id if self.positions_follow_padding else None

    def first_position(self, pad_token_id: int | None) -> int:
        """Return the row of the family's position table that a text's first token uses. Earlier rows are not used."""
        token = self.uncounted(pad_token_id)
        return 0 if token is None else token + 1

    def rules(self, config: PreTrainedConfig) -> Rules:
        """Return, as `Rules`, the settings that could make a model compute something that a `CompactBert` cannot."""
        return {
            self.name("hidden_act"): (self.read(config, "hidden_act"), ACTIVATIONS),
            # Only older checkpoints have this setting; both None and "absolute" mean absolute positions.
            "position_embedding_type": (getattr(config, "position_embedding_type", None) or "absolute", ("absolute",)),
            "is_decoder": (getattr(config, "is_decoder", False), (False,)),
        }

    def form(self, config: PreTrainedConfig, form: NetworkForm) -> NetworkForm:
        """Return `form`, with a different readout if the head of this teacher requires one."""
        return form

    def compact(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Return further settings of `CompactBertConfig`, in which a teacher of this family differs from BERT."""
        return {}

    def stock(self, config: CompactBertConfig) -> dict[str, Any]:
        """Return further settings of the family's transformers configuration, for a network that fits its class."""
        return {}

    def expresses(self, config: CompactBertConfig, state: Mapping[str, torch.Tensor]) -> bool:
        """Whether the family's transformers class can compute a network whose layers are uncompressed and of one size.

        `state` holds the network's parameters.
        """
        return True

    def to_compact(
        self,
        teacher_state: Mapping[str, torch.Tensor],
        names: Iterable[str],
        config: PreTrainedConfig,
        network_type: NetworkType,
    ) -> dict[str, torch.Tensor]:
        """Return the `CompactBert` parameters with these names, computed from the parameters of a teacher.

        `teacher_state` holds the teacher's parameters, and `network_type` is the type of the teacher.
        """
        state = {name: self._fused_part(name, teacher_state[self.parameter(name, network_type)]) for name in names}
        if _POSITION_TABLE in state:
            state[_POSITION_TABLE] = state[_POSITION_TABLE][self.first_position(config.pad_token_id) :]
        return state

    def _fused_part(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """Return the rows of a teacher's parameter that correspond to the `CompactBert` parameter `name`."""
        index, count = next(
            (index_and_count for module, index_and_count in self.fused.items() if f".{module}." in name), (0, 1)
        )
        return parameter.chunk(count)[index]

    def to_stock(self, state: Mapping[str, torch.Tensor], config: CompactBertConfig) -> dict[str, torch.Tensor]:
        """Convert `CompactBert` parameters to those of the family's transformers class. The inverse of `to_compact`."""
        parts: dict[str, list[torch.Tensor]] = {}
        for name, value in state.items():  # the parts of a fused parameter are in the right order
            parts.setdefault(self.parameter(name, config.network_type), []).append(value)
        stock_state = {name: torch.cat(values) if len(values) > 1 else values[0] for name, values in parts.items()}
        positions = self.parameter(_POSITION_TABLE, config.network_type)
        if positions in stock_state:
            stock_state[positions] = functional.pad(
                stock_state[positions], (0, 0, self.first_position(config.pad_token_id), 0)
            )
        return stock_state


CLASSIFIER_OF_TWO = (("classifier.", "classifier.out_proj."), ("bert.pooler.dense.", "classifier.dense."))
"""Replacements in parameter names for heads in which one module holds both linear layers."""
