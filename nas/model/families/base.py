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
"""For each name of a setting in the family's configuration: its value, and the values that a `CompactBert` supports."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of encoders: how its configuration and parameters correspond to a `CompactBert`.

    Below, "compact" settings and parameters are those of `CompactBertConfig` and `CompactBert`. The family's "own"
    ones are those of its classes in transformers.
    """

    model_type: str
    """Its `model_type` in transformers."""
    title: str
    """Its name in messages and reports."""
    base: str
    """The first part of the encoder's parameter names in a model with a head."""
    token_embeddings: str = "embeddings.word_embeddings.weight"
    """The name of the token embeddings' weight within the encoder."""
    pooler_act: str
    """The activation between the two linear layers of its sequence classifier's head."""
    pooled: frozenset[NetworkType] = frozenset({"sequence_classifier"})
    """The network types whose head has both of these layers. The first one is the pooler."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Replacements that turn a compact parameter's name into the family's own, in the order in which they apply."""
    sequence_head: tuple[tuple[str, str], ...] = ()
    """Further replacements for the head of its sequence classifier. They apply before `parameters`."""
    fused: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """For each compact module that the family joins with others: its index among these modules, and their number."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """The family's own names for compact settings that it names differently."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Compact settings that the family's configuration does not have, with the values that the family uses."""
    own_settings: tuple[str, ...] = ()
    """Settings of the family's configuration that affect the function, but match no single compact setting.

    The methods `compact` and `form` convert them.
    """
    own_counts: tuple[str, ...] = ()
    """Further settings of the family's configuration, which must be whole numbers above 0."""
    own_numbers: tuple[str, ...] = ()
    """Further settings of the family's configuration, which must be numbers above 0."""
    has_embedding_size: bool = False
    """Whether its embeddings can have their own width, followed by a projection to `hidden_size`."""
    positions_follow_padding: bool = False
    """Whether a text's first token uses row `pad_token_id + 1` of the position table, as in RoBERTa."""

    def read(self, config: PreTrainedConfig, setting: str) -> Any:
        """Return the value of a compact setting in a configuration of this family."""
        return self.constants[setting] if setting in self.constants else getattr(config, self.name(setting))

    def name(self, setting: str) -> str:
        """Return the family's own name for a compact setting."""
        return self.settings.get(setting, setting)

    def parameter(self, name: str, network_type: NetworkType = "sequence_classifier") -> str:
        """Return the family's own name for a compact parameter, in the transformers model of this network type."""
        head = self.sequence_head if network_type == "sequence_classifier" else ()
        for compact_name, own_name in (*head, *self.parameters):
            name = name.replace(compact_name, own_name)
        return name.partition(".")[2] if network_type == "encoder" else name

    def uncounted(self, pad_token_id: int | None) -> int | None:
        """Return the id of the token that is skipped when positions are counted; None if there is none.

        The first token then uses the row after this id in the position table.
        """
        return pad_token_id if self.positions_follow_padding else None

    def first_position(self, pad_token_id: int | None) -> int:
        """Return the row of the family's position table that the first token uses; earlier rows are not used."""
        token = self.uncounted(pad_token_id)
        return 0 if token is None else token + 1

    def rules(self, config: PreTrainedConfig) -> Rules:
        """Return the settings that could make a model compute something that a `CompactBert` does not support."""
        return {
            self.name("hidden_act"): (self.read(config, "hidden_act"), ACTIVATIONS),
            # Only older checkpoints have this setting; both None and "absolute" mean absolute positions.
            "position_embedding_type": (getattr(config, "position_embedding_type", None) or "absolute", ("absolute",)),
            "is_decoder": (getattr(config, "is_decoder", False), (False,)),
        }

    def form(self, config: PreTrainedConfig, form: NetworkForm) -> NetworkForm:
        """Return the form of a network, adapted if the head of this teacher has an unusual readout."""
        return form

    def compact(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Return the further compact settings in which this family differs from BERT."""
        return {}

    def stock(self, config: CompactBertConfig) -> dict[str, Any]:
        """Return further settings of the family's own configuration for a network that its class can express."""
        return {}

    def expresses(self, config: CompactBertConfig, state: Mapping[str, torch.Tensor]) -> bool:
        """Whether the family's own class can compute a network of equal, uncompressed layers.

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
        """Return the compact parameters `names`, computed from a teacher's own parameters.

        `network_type` is the teacher's type, and `teacher_state` holds its parameters.
        """
        state = {name: self._fused_part(name, teacher_state[self.parameter(name, network_type)]) for name in names}
        if _POSITION_TABLE in state:
            state[_POSITION_TABLE] = state[_POSITION_TABLE][self.first_position(config.pad_token_id) :]
        return state

    def _fused_part(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """Return the rows of a parameter of the family's own model that correspond to the compact parameter `name`."""
        index, count = next(
            (index_and_count for module, index_and_count in self.fused.items() if f".{module}." in name), (0, 1)
        )
        return parameter.chunk(count)[index]

    def to_stock(self, state: Mapping[str, torch.Tensor], config: CompactBertConfig) -> dict[str, torch.Tensor]:
        """Convert the compact parameters in `state` to those of the family's own model; the inverse of `to_compact`."""
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
"""Name replacements for heads in which one module holds both linear layers."""
