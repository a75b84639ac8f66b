"""`nas`: neural architecture search for compact BERTs, to a latency budget that is measured.

Importing it is cheap: the public names load their rooms when they are first used. It also lets transformers'
`AutoModelForSequenceClassification` load exported sub-networks, as soon as transformers itself is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nas import registration

if TYPE_CHECKING:
    from nas.architecture import Architecture, Layer
    from nas.errors import NasError
    from nas.model import CompactBertConfig, CompactBertForSequenceClassification
    from nas.pipeline import Run, export, front, profile, search_candidates, train
    from nas.space import SearchSpace
    from nas.study import Study
    from nas.supernet import BertSupernet

__version__ = "0.1.0"

_ROOMS = {
    "Architecture": "nas.architecture",
    "BertSupernet": "nas.supernet",
    "CompactBertConfig": "nas.model",
    "CompactBertForSequenceClassification": "nas.model",
    "Layer": "nas.architecture",
    "NasError": "nas.errors",
    "Run": "nas.pipeline",
    "SearchSpace": "nas.space",
    "Study": "nas.study",
    "export": "nas.pipeline",
    "front": "nas.pipeline",
    "profile": "nas.pipeline",
    "search_candidates": "nas.pipeline",
    "train": "nas.pipeline",
}
__all__ = [
    "Architecture",
    "BertSupernet",
    "CompactBertConfig",
    "CompactBertForSequenceClassification",
    "Layer",
    "NasError",
    "Run",
    "SearchSpace",
    "Study",
    "export",
    "front",
    "profile",
    "search_candidates",
    "train",
]


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(importlib.import_module(room), name)


registration.install()
