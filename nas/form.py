"""The form of a network: the type of its transformers model, and the hidden states that its head reads.

Each kind of task (`nas.tasks`) needs certain outputs, so it defines the form of its networks. The model, the latency
profiles and the export use this form.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Readout = Literal["first", "mean", "every"]
"""The part of the last hidden states that a network's head reads: the first token, the mean over all tokens, or every
token.
"""
NetworkType = Literal["sequence_classifier", "token_classifier", "encoder"]
"""The type of the transformers model that corresponds to a network."""


OUTPUT_NAMES: dict[NetworkType, str] = {
    "sequence_classifier": "logits",
    "token_classifier": "logits",
    "encoder": "sentence_embedding",
}
"""The name of the main output in an ONNX file, keyed by network type. The ONNX file of an encoder also has the output
`HIDDEN_STATES`.
"""
HIDDEN_STATES = "last_hidden_state"


@dataclass(frozen=True)
class NetworkForm:
    """The properties that all networks of a task share, regardless of their sizes."""

    network_type: NetworkType = "sequence_classifier"
    readout: Readout = "first"
    normalize: bool = False
    """Whether outputs are scaled to length 1. This is usual for embeddings that are compared by cosine similarity."""
    own_width: bool = False
    """Whether the outputs of an encoder are as wide as its hidden states, without a projection. If false, a last linear
    layer projects the readout to the width of the teacher's embeddings.
    """
    projection_dim: int | None = None
    """The number of outputs of an encoder's projection. None means that the projection has as many outputs as the
    teacher has hidden units.
    """
    projection_act: str | None = None
    """The activation after an encoder's projection, under its name in transformers' `ACT2FN`; None if there is none."""

    @property
    def identity(self) -> dict[str, Any]:
        """All settings, for digests. The settings of the projection are left out if they are None, so that digests of
        older versions, which lacked them, stay valid.
        """
        values = asdict(self)
        return {name: value for name, value in values.items() if value is not None}


CLASSIFIERS: dict[NetworkType, NetworkForm] = {
    "sequence_classifier": NetworkForm(),
    "token_classifier": NetworkForm("token_classifier", "every"),
}
"""The form of each type of classifier. Networks of the type `encoder` can have different forms."""
