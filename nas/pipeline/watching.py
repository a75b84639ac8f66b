"""Who sees the trainings of a run besides nas: integrations of transformers that the study names, and callbacks."""

from __future__ import annotations

from importlib.util import find_spec

from nas.errors import StudyError
from nas.pipeline.run import Run
from nas.supernet.loops import Watchers

_BESIDE = {"tensorboard"}
"""What is reported to only where it is installed."""


def watchers_of(run: Run) -> Watchers:
    """Those of the trainings of a run."""
    return Watchers(run.study.training.report_to, tuple(run.callbacks))


def check_reports(run: Run) -> None:
    """Raise `StudyError` if the study reports to something that is not installed."""
    for name in run.study.training.report_to:
        if name not in _BESIDE and find_spec(name) is None:
            raise StudyError(f"training.report_to: {name} is not installed; pip install {name}, or remove it")
