"""The interface of a family of teachers: how its models are converted to a `CompactBert` and back.

Each family has its own file, which defines a `Family`, and an entry in the registry. A `Family` defines which names its
models use for the settings and parameters of a `CompactBert`, and how its models differ from BERT. `nas/model/stock.py`
and `nas/model/checkpoint.py` use the `Family` to convert and load models.
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
"""The value of each setting and the values of this setting that a `CompactBert` supports. The keys are the names of
settings in the family's configuration.
"""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of encoders: how its configuration and parameters correspond to those of a `CompactBert`.

    In the names of this class, "compact" refers to `CompactBertConfig` and `CompactBert`. "own" and "stock" refer to
    the family's classes in transformers.
    """

    model_type: str
    """The family's `model_type` in transformers."""
    title: str
    """The family's name in messages and reports."""
    base: str
    """The first part of the encoder's parameter names in a model with a head, such as `bert`."""
    token_embeddings: str = "embeddings.word_embeddings.weight"
    """The name of the token embeddings' weight within the encoder."""
    pooler_act: str
    """The activation between the two linear layers in the head of the family's sequence classifier."""
    pooled: frozenset[NetworkType] = frozenset({"sequence_classifier"})
    """The network types whose head has two linear layers. The first of these layers is the pooler."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Pairs of old and new text. Replacing old text with new text, in this order, turns the name of a `CompactBert`
    parameter into the parameter's name in the family's class in transformers.
    """
    sequence_head: tuple[tuple[str, str], ...] = ()
    """Further replacements for the parameter names of sequence classifiers. These replacements come before those in
    `parameters`.
    """
    fused: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The `CompactBert` modules that the family's class joins into one module, keyed by name. Each value is a pair: the
    index of the module among the joined modules, and the number of joined modules.
    """
    settings: Mapping[str, str] = field(default_factory=dict)
    """The family's names for settings of `CompactBertConfig`, keyed by the name in `CompactBertConfig`. Settings with
    the same name in both configurations are left out.
    """
    constants: Mapping[str, Any] = field(default_factory=dict)
    """The settings of `CompactBertConfig` that the family's configuration lacks, with the values that the family uses.
    """
    own_settings: tuple[str, ...] = ()
    """Further settings of the family's configuration that affect what the model computes. The methods `compact` and
    `form` convert them to settings of `CompactBertConfig`.
    """
    own_counts: tuple[str, ...] = ()
    """Further settings of the family's configuration whose values must be whole numbers above 0."""
    own_numbers: tuple[str, ...] = ()
    """Further settings of the family's configuration whose values must be numbers above 0."""
    has_embedding_size: bool = False
    """Whether the width of the embeddings can differ from `hidden_size`. In this case, embeddings are projected to
    `hidden_size`.
    """
    positions_follow_padding: bool = False
    """Whether a text's first token uses row `pad_token_id + 1` of the position table, as in RoBERTa."""

    def read(self, config: PreTrainedConfig, setting: str) -> Any:
        """Return the value of a `CompactBertConfig` setting in a configuration of this family."""
        return self.constants[setting] if setting in self.constants else getattr(config, self.name(setting))

    def name(self, setting: str) -> str:
        """Return the family's name for a setting of `CompactBertConfig`."""
        return self.settings.get(setting, setting)

    def parameter(self, name: str, network_type: NetworkType = "sequence_classifier") -> str:
        """Return the name of a `CompactBert` parameter in the family's transformers class for this network type."""
        head = self.sequence_head if network_type == "sequence_classifier" else ()
        for compact_name, own_name in (*head, *self.parameters):
            name = name.replace(compact_name, own_name)
        return name.partition(".")[2] if network_type == "encoder" else name

    def uncounted(self, pad_token_id: int | None) -> int | None:
        """Return the id of the token that is skipped when positions are counted, or None if no token is skipped.

        If token `id` is skipped, the first token of a text uses row `id + 1` of the position table.
        """
        return pad_token_id if self.positions_follow_padding else None

    def first_position(self, pad_token_id: int | None) -> int:
        """Return the row of the family's position table that a text's first token uses. Earlier rows are not used."""
        token = self.uncounted(pad_token_id)
        return 0 if token is None else token + 1

    def rules(self, config: PreTrainedConfig) -> Rules:
        """Return, as `Rules`, the settings for which a `CompactBert` supports only certain values."""
        return {
            self.name("hidden_act"): (self.read(config, "hidden_act"), ACTIVATIONS),
            # Only older checkpoints have this setting; both None and "absolute" mean absolute positions.
            "position_embedding_type": (getattr(config, "position_embedding_type", None) or "absolute", ("absolute",)),
            "is_decoder": (getattr(config, "is_decoder", False), (False,)),
        }

    def form(self, config: PreTrainedConfig, form: NetworkForm) -> NetworkForm:
        """Return `form`, with a different readout if the teacher's head requires another readout."""
        return form

    def compact(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Return, for a teacher's configuration, the `CompactBertConfig` settings that differ from BERT's."""
        return {}

    def stock(self, config: CompactBertConfig) -> dict[str, Any]:
        """Return the settings that the family's configuration has and `CompactBertConfig` lacks.

        The family's class must be able to express the network.
        """
        return {}

    def expresses(self, config: CompactBertConfig, state: Mapping[str, torch.Tensor]) -> bool:
        """Whether the family's class in transformers can express a network.

        The layers of the network are uncompressed and have equal sizes. `state` holds the network's parameters.
        """
        return True

    def to_compact(
        self,
        teacher_state: Mapping[str, torch.Tensor],
        names: Iterable[str],
        config: PreTrainedConfig,
        network_type: NetworkType,
    ) -> dict[str, torch.Tensor]:
        """Return the `CompactBert` parameters that are listed in `names`, computed from the parameters of a teacher.

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
        """Convert `CompactBert` parameters to those of the family's class in transformers. Reverses `to_compact`."""
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
"""Replacements in parameter names, for heads in which one module contains both linear layers."""
