"""The form of a network: which model of transformers it corresponds to, and what its head reads.

A kind of task states it, since it knows what the outputs are; models, profiles and exports follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Readout = Literal["first", "mean", "every"]
"""What a network's head reads of the last hidden states: the first token, the mean over all tokens, or every token."""
NetworkType = Literal["sequence_classifier", "token_classifier", "encoder"]
"""Which model of transformers a network is loaded from and exported as."""


OUTPUT_NAMES: dict[NetworkType, str] = {
    "sequence_classifier": "logits",
    "token_classifier": "logits",
    "encoder": "sentence_embedding",
}
"""What the output is called in an ONNX file. That of an encoder has the last hidden states too."""
HIDDEN_STATES = "last_hidden_state"


@dataclass(frozen=True)
class NetworkForm:
    """What networks of a task have in common, whatever their sizes."""

    network_type: NetworkType = "sequence_classifier"
    readout: Readout = "first"
    normalize: bool = False
    """Whether outputs are scaled to length 1, as embeddings that are compared by their cosine."""


CLASSIFIERS: dict[NetworkType, NetworkForm] = {
    "sequence_classifier": NetworkForm(),
    "token_classifier": NetworkForm("token_classifier", "every"),
}
"""The forms that follow from the type alone."""
