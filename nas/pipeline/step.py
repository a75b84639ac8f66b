"""The types that describe the steps of a study: a `Step` produces a result, and a `Check` tests a condition.

`steps.py` lists the steps and checks of a study. The runner, `nas check` and the report read that list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nas.pipeline.estimates import Workload
from nas.pipeline.run import Run
from nas.progress import Stopwatch
from nas.study import Study


@dataclass(frozen=True)
class Check:
    """A condition that must hold before certain steps. Every command that needs these steps tests it again."""

    name: str
    needs: tuple[str, ...]
    """Names of the steps and checks that must be completed first."""
    check: Callable[[Run], None]
    """Raises a `NasError` if the condition does not hold."""


@dataclass(frozen=True)
class Step:
    """One step of a study. `inputs`, `make` and `current` are not called until all steps in `needs` are up to date."""

    name: str
    """The name of the step. The file `steps/<name>.json` in the run's folder is the step's record."""
    needs: tuple[str, ...]
    """Names of the steps and checks that must be completed first."""
    inputs: Callable[[Run], str]
    """Returns the digest of everything that the result depends on."""
    make: Callable[[Run, Stopwatch], None] | None
    """Produces the result, or resumes an interrupted attempt. None if the result is imported."""
    result: Path
    """The file or folder that holds the result, which is removed before the step is run with different inputs."""
    seconds: Callable[[Study, Workload], float]
    """Estimates how many seconds the step takes."""
    other_outputs: tuple[Path, ...] = field(default=(), kw_only=True)
    """Other files and folders that the step writes, which are removed together with the result."""
    current: Callable[[Run], bool] | None = field(default=None, kw_only=True)
    """Returns whether the result is up to date. By default, a result is up to date if `inputs` is unchanged."""
    shares_hours: bool = field(default=False, kw_only=True)
    """Whether the step gets a fraction of `training.hours`, if the study sets it, rather than a fixed time."""
    is_remote: bool = field(default=False, kw_only=True)
    """Whether `inputs` needs information from another machine. `nas check` does not contact that machine. Instead, it
    assumes that a finished result is up to date."""

    def is_current(self, run: Run) -> bool:
        """Whether the result exists and is up to date."""
        if not run.is_finished(self.name):  # the files that `inputs` reads may not exist either
            return False
        return self.current(run) if self.current else run.is_done(self.name, self.inputs(run))
