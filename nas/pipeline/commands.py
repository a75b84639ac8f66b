"""The commands of a run: each brings the steps that it needs up to date and returns their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nas.data import TaskData
from nas.errors import ExportError, MissedBudgetsError
from nas.latency.profile import Profile
from nas.pipeline.exports import candidate_of, trial_name, verification
from nas.pipeline.prepare import splits
from nas.pipeline.profiles import profiles_of
from nas.pipeline.run import Run
from nas.pipeline.runner import bring_up_to_date
from nas.pipeline.searches import searched
from nas.pipeline.steps import steps_of, trial_step
from nas.search import SearchState

T = TypeVar("T")


def _after(run: Run, step: str, read: Callable[[Run], T]) -> T:
    """Bring a step up to date, then read what it left."""
    with run.remembering():
        bring_up_to_date(run, steps_of(run), step)
        return read(run)


def prepare_data(run: Run) -> TaskData:
    """Read, split and tokenise the data; returns the tokenised splits."""
    return _after(run, "data", splits)


def prepare_teacher(run: Run) -> TaskData:
    """Make data and teacher. Returns the tokenised splits."""
    return _after(run, "teacher", splits)


def train(run: Run) -> None:
    """Make the supernet."""
    bring_up_to_date(run, steps_of(run), "supernet")


def profile(run: Run) -> dict[str, Profile]:
    """Profile the study's devices, as far as profiles are missing or from another machine. Returns all by device.

    Raises `DeviceError` if a device elsewhere has none, after all others have theirs.
    """
    bring_up_to_date(run, steps_of(run), *(f"profile-{device.name}" for device in run.study.devices))
    return profiles_of(run)


def evaluate_candidates(run: Run) -> SearchState:
    """Search the space. Returns the candidates and their outcomes."""
    return _after(run, "search", searched)


def search_candidates(run: Run) -> SearchState:
    """Search the space, then measure the best of each budget whole."""
    return _after(run, "front", searched)


def export(run: Run, fine_tune: bool = True) -> dict[str, dict[str, Any]]:
    """Export one sub-network for each budget, after a search if there is none yet.

    Returns the verifications by the budget's name.

    Raises `MissedBudgetsError` when no measured candidate of a budget meets it, after the other budgets are served.
    """
    names = {f"export-{budget.name}": budget.name for budget in run.study.budgets}
    problems = bring_up_to_date(run, steps_of(run, fine_tune), *names, tolerated=ExportError)
    if problems:
        raise MissedBudgetsError({names[step]: str(problem) for step, problem in problems.items()})
    return {name: verification(run, name) for name in names.values()}


def export_trial(run: Run, trial: str, fine_tune: bool = True) -> dict[str, dict[str, Any]]:
    """Export one candidate, given by its trial's number or the first digits of its digest, as those of budgets are.

    Returns its verification by the export's name. Raises `ExportError` if no or several candidates are meant.
    """
    with run.remembering():
        steps = steps_of(run)
        bring_up_to_date(run, steps, "front")
        candidate = candidate_of(run, trial)
        step = trial_step(run, candidate, fine_tune)
        bring_up_to_date(run, (*steps, step), step.name)
    name = trial_name(candidate)
    return {name: verification(run, name)}
