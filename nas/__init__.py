"""Neural architecture search for compact BERTs that meet a measured latency budget.

Importing `nas` is fast, because each public name is imported only when it is first used. After a call of
`register_auto_classes`, the Auto classes of transformers can load exported sub-networks without `trust_remote_code`.

Most subcommands of the command line are also functions that take a `Run`: `train`, `profile`, `search_candidates`,
`front`, `export_networks` and `write_report`. The functions for `search`, `export` and `report` have longer names,
because `nas.search`, `nas.export` and `nas.report` are subpackages.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"] and "nas.cli" in sys.orig_argv and not sys.flags.safe_path:
    # `python -m nas.cli` puts the working directory first on the module search path. Move it to the end, so that a
    # user's json.py in that directory does not hide the standard module.
    sys.path.append(sys.path.pop(0))

import importlib
from typing import TYPE_CHECKING, Any

from nas import waiting

if TYPE_CHECKING:
    from nas.architecture import Architecture, Layer
    from nas.errors import NasError
    from nas.in_python import run_of
    from nas.model import CompactBertConfig, CompactBertForSequenceClassification
    from nas.model.modeling import register_auto_classes
    from nas.pipeline import Run, front, profile, search_candidates, train
    from nas.pipeline import export as export_networks
    from nas.pipeline.plan import plan
    from nas.pipeline.reports import report as write_report
    from nas.report.growing_front import GrowingFront
    from nas.space import SearchSpace
    from nas.study import Study
    from nas.supernet import BertSupernet

__version__ = "0.1.0"

_SOURCES = {
    "Architecture": "nas.architecture.Architecture",
    "BertSupernet": "nas.supernet.BertSupernet",
    "CompactBertConfig": "nas.model.CompactBertConfig",
    "CompactBertForSequenceClassification": "nas.model.CompactBertForSequenceClassification",
    "GrowingFront": "nas.report.growing_front.GrowingFront",
    "Layer": "nas.architecture.Layer",
    "NasError": "nas.errors.NasError",
    "Run": "nas.pipeline.Run",
    "SearchSpace": "nas.space.SearchSpace",
    "Study": "nas.study.Study",
    "export_networks": "nas.pipeline.export",
    "front": "nas.pipeline.front",
    "plan": "nas.pipeline.plan.plan",
    "profile": "nas.pipeline.profile",
    "register_auto_classes": "nas.model.modeling.register_auto_classes",
    "run_of": "nas.in_python.run_of",
    "search_candidates": "nas.pipeline.search_candidates",
    "train": "nas.pipeline.train",
    "write_report": "nas.pipeline.reports.report",
}
__all__ = [
    "Architecture",
    "BertSupernet",
    "CompactBertConfig",
    "CompactBertForSequenceClassification",
    "GrowingFront",
    "Layer",
    "NasError",
    "Run",
    "SearchSpace",
    "Study",
    "export_networks",
    "front",
    "plan",
    "profile",
    "register_auto_classes",
    "run_of",
    "search_candidates",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    module, _, attribute = _SOURCES[name].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


waiting.wait_passively()
