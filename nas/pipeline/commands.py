"""Functions that the public API and commands such as `nas train` call.

Each function runs all required steps that are not up to date.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nas.data import TaskData
from nas.errors import ExportError, MissedBudgetsError
from nas.latency.profile import Profile
from nas.pipeline.data import splits
from nas.pipeline.exports import candidate_of, trial_name, verification
from nas.pipeline.profiles import profiles_of
from nas.pipeline.run import Run
from nas.pipeline.runner import bring_up_to_date
from nas.pipeline.searches import searched
from nas.pipeline.steps import steps_of, trial_step
from nas.search import SearchState

T = TypeVar("T")


def _bring_up_to_date_and_read(run: Run, step: str, read: Callable[[Run], T]) -> T:
    with run.remembering():
        bring_up_to_date(run, steps_of(run), step)
        return read(run)


def prepare_data(run: Run) -> TaskData:
    """Read, split and tokenise the data; return the tokenised splits."""
    return _bring_up_to_date_and_read(run, "data", splits)


def prepare_teacher(run: Run) -> TaskData:
    """Prepare the data and the teacher; return the tokenised splits."""
    return _bring_up_to_date_and_read(run, "teacher", splits)


def train(run: Run) -> None:
    """Train the supernet. First run all required steps that are not up to date."""
    bring_up_to_date(run, steps_of(run), "supernet")


def profile(run: Run) -> dict[str, Profile]:
    """Profile the devices whose profile is missing or out of date; return all profiles, keyed by device name.

    Raises `DeviceError` if an off-cluster device has no imported profile, but only after all other devices are
    profiled.
    """
    bring_up_to_date(run, steps_of(run), *(f"profile-{device.name}" for device in run.study.devices))
    return profiles_of(run)


def evaluate_candidates(run: Run) -> SearchState:
    """Evaluate the search's candidates, but do not measure the best ones on the devices.

    Returns all evaluated candidates, and the number of trials with each outcome.
    """
    return _bring_up_to_date_and_read(run, "search", searched)


def search_candidates(run: Run) -> SearchState:
    """Run the search, then measure the best candidates for each budget on the devices.

    Returns all evaluated candidates, and the number of trials with each outcome.
    """
    return _bring_up_to_date_and_read(run, "front", searched)


def export(run: Run, fine_tune: bool = True) -> dict[str, dict[str, Any]]:
    """Export one sub-network for each budget, after running all required steps that are not up to date.

    Returns the content of each export's `verification.json`, keyed by budget name. If `fine_tune` is not set, exports
    keep the supernet's weights. Raises `MissedBudgetsError` if no measured candidate can be exported for one of the
    budgets, but only after the networks for all other budgets are exported.
    """
    names = {f"export-{budget.name}": budget.name for budget in run.study.budgets}
    problems = bring_up_to_date(run, steps_of(run, fine_tune), *names, tolerated=ExportError)
    if problems:
        raise MissedBudgetsError({names[step]: str(problem) for step, problem in problems.items()})
    return {name: verification(run, name) for name in names.values()}


def export_trial(run: Run, trial: str, fine_tune: bool = True) -> dict[str, dict[str, Any]]:
    """Export one candidate of the search, given its trial number or the first digits of its digest.

    Returns a dictionary with one entry, which maps the export's name to the content of its `verification.json`. Raises
    `ExportError` unless exactly one candidate matches `trial`.
    """
    with run.remembering():
        steps = steps_of(run)
        bring_up_to_date(run, steps, "front")
        candidate = candidate_of(run, trial)
        step = trial_step(run, candidate, fine_tune)
        bring_up_to_date(run, (*steps, step), step.name)
    name = trial_name(candidate)
    return {name: verification(run, name)}
