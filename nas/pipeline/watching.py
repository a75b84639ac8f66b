"""Connects a run's training loops to external loggers.

The loggers are the integrations of transformers that the study names, such as TensorBoard, and the run's callbacks.
"""

from __future__ import annotations

from importlib.util import find_spec

from nas.errors import StudyError
from nas.pipeline.run import Run
from nas.supernet.loops import Watchers

_OPTIONAL = {"tensorboard"}
"""Integrations that are used only if they are installed."""


def watchers_of(run: Run) -> Watchers:
    """Return the integrations and callbacks that receive the events of every training stage of a run."""
    return Watchers(run.study.training.report_to, tuple(run.callbacks))


def check_reports(run: Run) -> None:
    """Raise `StudyError` if the study names an integration that is not installed."""
    for name in run.study.training.report_to:
        if name not in _OPTIONAL and find_spec(name) is None:
            raise StudyError(
                f"training.report_to: {name} is not installed; run pip install {name}, or remove {name} from "
                "training.report_to"
            )
