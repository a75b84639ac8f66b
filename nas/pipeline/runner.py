"""The runner: starts or resumes the steps of a run that are not up to date, and skips all other steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from nas.errors import NasError
from nas.pipeline.allowance import seconds_allowed
from nas.pipeline.run import Run
from nas.pipeline.step import Check, Step
from nas.supernet.checkpoints import remove_checkpoints


def bring_up_to_date(
    run: Run, steps: Sequence[Step | Check], *names: str, tolerated: type[NasError] | tuple[()] = ()
) -> dict[str, NasError]:
    """Run the steps `names` and all steps that they need, in the order of `steps`. Skip steps that are up to date.

    If a step listed in `names` raises a `tolerated` error, later steps are still run. Returns the tolerated errors,
    keyed by step name.
    """
    problems: dict[str, NasError] = {}
    with run.remembering():
        for step in _needed(steps, names):
            try:
                _bring_step_up_to_date(run, step, steps)
            except tolerated as problem:
                if step.name not in names:
                    raise
                problems[step.name] = problem
    return problems


def _bring_step_up_to_date(run: Run, step: Step | Check, steps: Sequence[Step | Check]) -> None:
    if isinstance(step, Check):
        step.check(run)
        return
    if step.make and not step.is_current(run):
        allowed = seconds_allowed(run, steps, step) if step.shares_hours else inf
        with run.step(step.name, step.inputs(run), step.result, *step.other_outputs, allowed=allowed) as stopwatch:
            step.make(run, stopwatch)
    for output in (step.result, *step.other_outputs):
        for folder in (output, *output.glob("*")):
            remove_checkpoints(folder)


def states(run: Run, steps: Iterable[Step | Check]) -> list[tuple[Step, bool]]:
    """Return a pair for each step: the step, and whether the step and all steps that it needs are up to date.

    This function does not run any `Step` or `Check`.
    """
    is_done_by_name: dict[str, bool] = {}
    step_states = []
    with run.remembering():
        for step in steps:
            is_done = all(is_done_by_name[name] for name in step.needs)
            if isinstance(step, Step):
                is_trusted = step.is_remote and run.is_finished(step.name)
                is_done = is_done and (is_trusted or step.is_current(run))
                step_states.append((step, is_done))
            is_done_by_name[step.name] = is_done
    return step_states


def _needed(steps: Sequence[Step | Check], names: Iterable[str]) -> list[Step | Check]:
    """Return the steps `names`, and all steps and checks that they need, in the order of `steps`."""
    needed_names = set(names)
    for step in reversed(steps):
        if step.name in needed_names:
            needed_names.update(step.needs)
    return [step for step in steps if step.name in needed_names]
