"""Computes how much of `training.hours` is left for the three steps that share it.

These steps are the supernet's training, the search and the final training. Every other step has a fixed cost: the
seconds that the step took or, if it has not run yet, an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from nas.errors import StudyError
from nas.pipeline import division, estimates
from nas.pipeline.data import splits
from nas.pipeline.estimates import Workload, measured_rate
from nas.pipeline.run import Run
from nas.pipeline.separate_teacher import operations_for_a_token
from nas.pipeline.step import Check, Step
from nas.pipeline.unlabelled import unlabelled_lengths
from nas.study import Study

_ROW_DEPENDENT_STEPS = ("embedded", "data", "unlabelled", "teacher", "separate-teacher", "teacher-logits")
"""Steps whose duration depends on rows that may not have been read yet. `refuse_too_few` counts the cost of such a step
only once the step has finished."""


def seconds_allowed(run: Run, steps: Sequence[Step | Check], step: Step) -> float:
    """Return how many seconds of `training.hours` are left for `step` and for the later steps that share the time.

    Return infinity if the study does not set `training.hours`.
    """
    hours = run.study.training.hours
    if not hours:
        return float("inf")
    seconds_taken, made_steps, workload = run.seconds(), _only_steps(steps), _workload(run)
    index = made_steps.index(step)
    before = sum(seconds_taken.get(each.name, 0.0) for each in made_steps[:index])
    after = sum(each.seconds(run.study, workload) for each in made_steps[index + 1 :] if not each.shares_hours)
    return 3600 * hours - division.OUTSIDE_STEPS - before - after


def refuse_too_few(run: Run, steps: Sequence[Step | Check]) -> None:
    """Raise `StudyError` if the steps with a fixed cost use up all of `training.hours`.

    All steps have a fixed cost, except the supernet's training, the search and the final training. A step whose
    duration depends on rows that may not have been read yet is counted only once the step has finished.
    """
    if not run.study.training.hours:
        return
    seconds_taken, workload = run.seconds(), _workload(run)
    fixed_cost_steps = [
        each
        for each in _only_steps(steps)
        if not each.shares_hours and (each.name in seconds_taken or each.name not in _ROW_DEPENDENT_STEPS)
    ]
    refuse(
        run.study,
        workload,
        sum(seconds_taken.get(each.name, each.seconds(run.study, workload)) for each in fixed_cost_steps),
    )


def refuse(study: Study, work: Workload, fixed: float) -> None:
    """Raise `StudyError` if the steps with a fixed cost use up all of `training.hours`.

    `fixed` is the total number of seconds that these steps take.
    """
    fixed, hours = fixed + division.OUTSIDE_STEPS, study.training.hours or 0.0
    if 3600 * hours <= fixed:
        least_hours = ceil(1000 * (fixed + _shortest_seconds(study, work)) / 3600) / 1000
        raise StudyError(
            f"training.hours: must be more than {fixed / 3600:.3f}, because all steps except the supernet's training, "
            f"the search and the final training take this many hours, but got {hours:g}; set it to at least "
            f"{least_hours:g}"
        )


def divided_seconds(study: Study, work: Workload, steps: Sequence[tuple[Step, float | None]]) -> dict[str, float]:
    """Return the estimated seconds that each step will take, keyed by step name.

    The study must set `training.hours`. `steps` pairs each step with the seconds that it took, or with None if the step
    is not up to date. The estimate for a step that is up to date is 0. Raises `StudyError` if no time is left for the
    supernet's training, the search and the final training.
    """
    seconds_by_step = {step.name: step.seconds(study, work) for step, _ in steps if not step.shares_hours}
    seconds_by_step |= {step.name: took for step, took in steps if took is not None}
    refuse(study, work, sum(seconds_by_step.values()))
    seconds_left = 3600 * (study.training.hours or 0.0) - division.OUTSIDE_STEPS - sum(seconds_by_step.values())
    names = [step.name for step, _ in steps]
    if "supernet" not in seconds_by_step:
        seconds_by_step["supernet"] = division.supernet_seconds(seconds_left, "finalists" in names)
        seconds_left -= seconds_by_step["supernet"]
    if "search" not in seconds_by_step:
        seconds_per_evaluation = estimates.evaluation(study, work)
        seconds_by_step["search"] = seconds_per_evaluation * division.evaluations(
            division.search_seconds(seconds_left), seconds_per_evaluation
        )
        seconds_left -= seconds_by_step["search"]
    return {
        step.name: 0.0 if took is not None else seconds_by_step.get(step.name, max(0.0, seconds_left))
        for step, took in steps
    }


def _shortest_seconds(study: Study, work: Workload) -> float:
    """Estimate the total seconds of the shortest allowed supernet training, search and final training.

    The minimum is `LEAST_STEPS` training steps for each of the two trainings, and `LEAST_EVALUATIONS` for the search.
    """
    supernet = study.supernet.model_copy(update={"steps": division.LEAST_STEPS})
    search = study.search.model_copy(update={"evaluations": division.LEAST_EVALUATIONS})
    epochs = division.LEAST_STEPS * study.export.batch_size / max(1, work.distilled.rows)
    export = study.export.model_copy(update={"epochs": epochs})
    shortest = study.model_copy(update={"supernet": supernet, "search": search, "export": export})
    finalists = estimates.finalists(shortest, work) if export.fine_tune else 0.0
    return estimates.supernet(shortest, work) + estimates.search(shortest, work) + finalists


def _workload(run: Run) -> Workload:
    """Return the workload of a run. Until the data is read, assume typical numbers of texts and tokens."""
    study, rate, seconds_taken = run.study, measured_rate(), run.seconds()
    if run.is_finished("data"):
        workload = Workload.of_data(study, splits(run), rate, unlabelled_lengths(run))
    else:
        workload = Workload.of(study, None, rate)
    baselines = [seconds_taken.get(f"baselines-{device.name}") for device in study.devices]
    baselines_seconds = None if None in baselines else sum(seconds for seconds in baselines if seconds is not None)
    profiles = [seconds for device in study.devices if (seconds := seconds_taken.get(f"profile-{device.name}"))]
    # On a busy machine, unreliable measurements are repeated, so profiles take longer than estimated. The measurements
    # in the step `front` will then take longer too.
    slowness = max(1.0, max(profiles, default=0.0) / estimates.profile(study, workload))
    return replace(
        workload,
        baselines_seconds=baselines_seconds,
        teacher_operations=operations_for_a_token(run) or 0.0,
        slowness=slowness,
    )


def _only_steps(steps: Sequence[Step | Check]) -> list[Step]:
    return [step for step in steps if isinstance(step, Step)]
