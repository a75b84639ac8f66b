"""The contract of a family of teachers: how its models map to a `CompactBert` and back.

A family is one file with one `Family` and one line in the registry. It says what the family calls the settings and
parameters of a `CompactBert`, and where its function differs from BERT's.
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
"""The activations that a `CompactBert` computes in torch and in ONNX."""
_POSITIONS = "bert.embeddings.position_embeddings.weight"
Rules = dict[str, tuple[Any, tuple[Any, ...]]]
"""Settings of a configuration, by its own names: the value, and the values that a `CompactBert` can express."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of encoder, in terms of `CompactBertConfig` and the parameters of a `CompactBert`."""

    model_type: str
    """Its name in transformers."""
    title: str
    """Its name in messages and pages."""
    base: str
    """What the names of its encoder's parameters begin with in a model with a head."""
    words: str = "embeddings.word_embeddings.weight"
    """The table of token embeddings, by its name in the encoder."""
    pooler_act: str
    """What the head of its sequence classifier computes between the two linear layers."""
    pooled: frozenset[NetworkType] = frozenset({"sequence_classifier"})
    """The types of networks whose head has the first of these layers."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Parts of our parameters' names and its own, replaced in this order."""
    sequence_head: tuple[tuple[str, str], ...] = ()
    """The same of the head of its sequence classifier, replaced before the others."""
    fused: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Our modules whose parameters are rows of a larger one: which part of how many."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Our settings and its own, where the two names differ."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Our settings that it has no name for, with the value that it uses."""
    own_settings: tuple[str, ...] = ()
    """Settings of its function that a `CompactBert` has under no name of their own; see `compact`."""
    own_counts: tuple[str, ...] = ()
    """Such settings that are whole numbers above 0."""
    own_numbers: tuple[str, ...] = ()
    """Such settings that are numbers above 0."""
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

    def uncounted(self, pad_token_id: int | None) -> int | None:
        """The token that takes no position of its own, after whose number positions begin; None if all take one."""
        return pad_token_id if self.positions_follow_padding else None

    def first_position(self, pad_token_id: int | None) -> int:
        """The row of its position table that the first token takes. The rows before it serve no token."""
        token = self.uncounted(pad_token_id)
        return 0 if token is None else token + 1

    def rules(self, config: PreTrainedConfig) -> Rules:
        """The settings by which its models could compute something that a `CompactBert` does not."""
        return {
            self.name("hidden_act"): (self.read(config, "hidden_act"), ACTIVATIONS),
            # Older checkpoints have it, with None or "absolute" for the usual kind.
            "position_embedding_type": (getattr(config, "position_embedding_type", None) or "absolute", ("absolute",)),
            "is_decoder": (getattr(config, "is_decoder", False), (False,)),
        }

    def form(self, config: PreTrainedConfig, form: NetworkForm) -> NetworkForm:
        """The form of a network where its own heads read something else than others."""
        return form

    def compact(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Settings of a `CompactBertConfig` that are neither BERT's nor under one name in both."""
        return {}

    def stock(self, config: CompactBertConfig) -> dict[str, Any]:
        """The inverse of `compact`: settings of its own configuration for a network that it can express."""
        return {}

    def expresses(self, config: CompactBertConfig, state: Mapping[str, torch.Tensor]) -> bool:
        """Whether its own class can compute a network of equal layers without compression, given its parameters."""
        return True

    def to_compact(
        self,
        given: Mapping[str, torch.Tensor],
        names: Iterable[str],
        config: PreTrainedConfig,
        kind: NetworkType,
    ) -> dict[str, torch.Tensor]:
        """The parameters of a `CompactBert` with these names, from those that its own model of that type has."""
        state = {name: self._part(name, given[self.parameter(name, kind)]) for name in names}
        if _POSITIONS in state:
            state[_POSITIONS] = state[_POSITIONS][self.first_position(config.pad_token_id) :]
        return state

    def _part(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """The rows of a parameter that are one of ours."""
        number, count = next((part for module, part in self.fused.items() if f".{module}." in name), (0, 1))
        return parameter.chunk(count)[number]

    def to_stock(self, state: Mapping[str, torch.Tensor], config: CompactBertConfig) -> dict[str, torch.Tensor]:
        """The inverse of `to_compact`."""
        parts: dict[str, list[torch.Tensor]] = {}
        for name, value in state.items():  # parts of a fused parameter stand in their order
            parts.setdefault(self.parameter(name, config.network_type), []).append(value)
        found = {name: torch.cat(values) if len(values) > 1 else values[0] for name, values in parts.items()}
        positions = self.parameter(_POSITIONS, config.network_type)
        if positions in found:
            found[positions] = functional.pad(found[positions], (0, 0, self.first_position(config.pad_token_id), 0))
        return found


CLASSIFIER_OF_TWO = (("classifier.", "classifier.out_proj."), ("bert.pooler.dense.", "classifier.dense."))
"""The names in a head whose two linear layers stand in one module."""
