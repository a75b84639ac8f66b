"""The form of a network: the transformers model class that it corresponds to, and the hidden states that it reads out.

Each kind of task (`nas.tasks`) needs certain outputs and therefore defines the form of its networks. The model, the
latency profiles and the export use this form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Readout = Literal["first", "mean", "every"]
"""Which part of the last hidden states a network's head reads: the first token, the mean over all tokens, or every
token."""
NetworkType = Literal["sequence_classifier", "token_classifier", "encoder"]
"""The kind of transformers model that a network is loaded from and exported as."""


OUTPUT_NAMES: dict[NetworkType, str] = {
    "sequence_classifier": "logits",
    "token_classifier": "logits",
    "encoder": "sentence_embedding",
}
"""The name of the output in an ONNX file. An encoder's file also outputs `HIDDEN_STATES`."""
HIDDEN_STATES = "last_hidden_state"


@dataclass(frozen=True)
class NetworkForm:
    """The properties that all networks of a task share, whatever their sizes."""

    network_type: NetworkType = "sequence_classifier"
    readout: Readout = "first"
    normalize: bool = False
    """Whether outputs are scaled to length 1, as for embeddings that are compared by cosine similarity."""
    own_width: bool = False
    """Whether the outputs of an encoder are its readout itself, as wide as its hidden states. If not, a last linear
    layer projects the readout to the teacher's width."""


CLASSIFIERS: dict[NetworkType, NetworkForm] = {
    "sequence_classifier": NetworkForm(),
    "token_classifier": NetworkForm("token_classifier", "every"),
}
"""The forms of the network types that have only one form. An `encoder` may have several."""
