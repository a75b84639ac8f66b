"""A step of a study as a value: what it needs, what it is made from, how it is made, and about how long that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nas.pipeline.estimates import Workload
from nas.pipeline.run import Run
from nas.progress import Laps
from nas.study import Study


@dataclass(frozen=True)
class Check:
    """A condition for the steps that need it. It leaves no result, so every command checks it."""

    name: str
    needs: tuple[str, ...]
    """The steps and checks that come before it."""
    check: Callable[[Run], None]
    """Raises a `NasError` if it does not hold."""


@dataclass(frozen=True)
class Step:
    """A step of a study. Its functions are called when all that it needs is up to date."""

    name: str
    """Its mark in the run's folder is `steps/<name>.json`."""
    needs: tuple[str, ...]
    """The steps and checks that come before it."""
    inputs: Callable[[Run], str]
    """The digest of everything that the result is made from."""
    make: Callable[[Run, Laps], None] | None
    """Makes the result, or goes on where it was interrupted; None if the result is imported."""
    result: Path
    """The file or folder that it leaves; removed when the step is begun from other inputs."""
    seconds: Callable[[Study, Workload], float]
    """An estimate of how long it takes."""
    aside: tuple[Path, ...] = field(default=(), kw_only=True)
    """Other files and folders that it writes, removed together with the result."""
    current: Callable[[Run], bool] | None = field(default=None, kw_only=True)
    """Whether the result is up to date; None if it is when it was made from `inputs`."""
    is_divided: bool = field(default=False, kw_only=True)
    """Whether it takes what it is given of a run's hours, where the study sets them."""
    is_remote: bool = field(default=False, kw_only=True)
    """Whether `inputs` asks another machine. `nas check` does not, and takes the result for up to date."""

    def is_current(self, run: Run) -> bool:
        """Whether the result is there and up to date."""
        if not run.is_finished(self.name):  # what its inputs are read from may be missing too
            return False
        return self.current(run) if self.current else run.is_done(self.name, self.inputs(run))
