"""Lists a study's steps and checks in order of execution, for the commands, `nas check` and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from nas.budget import Budget
from nas.device import Device
from nas.pipeline import (
    allowance,
    data,
    estimates,
    exports,
    finalists,
    profiles,
    searches,
    separate_teacher,
    sources,
    statics,
    supernets,
    teachers,
    unlabelled,
    watching,
)
from nas.pipeline.run import Run
from nas.pipeline.step import Check, Step
from nas.study import Study
from nas.tasks import task_kind


def steps_of(run: Run, fine_tune: bool = True) -> tuple[Step | Check, ...]:
    """Return the steps and checks of a run's study. Each step comes after all steps and checks that it needs.

    If `fine_tune` is not set, exports keep the weights that they inherit from the supernet.
    """
    study = run.study
    embedded = study.task.train == "embedded"
    reachable = [device for device in study.devices if device.where != "elsewhere"]
    off_cluster = [device for device in study.devices if device.where == "elsewhere"]
    return (
        Check("storage", (), lambda run: searches.check_storage(run.study)),
        Check("reports", (), watching.check_reports),
        Check("other training", (), supernets.refuse_other_training),
        Check("hours", (), partial(_refuse_hours, fine_tune=fine_tune)),
        *([_embedded_step(run)] if embedded else []),
        Check("sources", ("embedded",) if embedded else (), sources.settle_sources),
        Step("data", ("sources",), sources.data_inputs, data.make_data, run.data, estimates.data),
        Check("labels", ("data",), data.check_labels),
        *([_unlabelled_step(run)] if study.task.unlabelled else []),
        *([Check("taught labels", ("data",), _check_separate_teacher)] if study.student else []),
        Step(
            "teacher",
            ("labels", "reports"),
            sources.teacher_inputs,
            teachers.make_teacher,
            run.teacher,
            estimates.teacher,
        ),
        *(_separate_teacher_steps(run) if study.student else ()),
        *(_profile_step(run, device) for device in reachable),
        Check("imports", ("teacher", *_profile_names(reachable)), profiles.refuse_unmeasured),
        *(_profile_step(run, device) for device in off_cluster),
        Check("budgets", _profile_names(study.devices), profiles.check_feasible),
        *(_baselines_step(run, device) for device in study.devices),  # their duration predicts how long exports take
        *(_static_step(run, device) for device in study.devices if task_kind(study.task.kind).has_static),
        Check("hours left", ("teacher",), partial(_refuse_hours, fine_tune=fine_tune)),
        Step(
            "supernet",
            (
                "other training",
                "hours",
                *(["budgets"] if study.is_near_budgets else []),
                *_distillation_needs(study),
                "hours left",
            ),
            supernets.supernet_inputs,
            supernets.make_supernet,
            run.supernet,
            estimates.supernet,
            shares_hours=True,
        ),
        Step(
            "search",
            ("storage", "budgets", "supernet"),
            searches.search_inputs,
            searches.make_search,
            run.journal.parent,
            estimates.search,
            current=searches.is_searched,
            shares_hours=True,
        ),
        Step("front", ("search",), searches.front_inputs, searches.make_front, run.front, estimates.front),
        *([_finalists_step(run)] if fine_tune and study.export.fine_tune else []),
        *(_budget_export_step(run, budget, fine_tune) for budget in study.budgets),
    )


def seconds(run: Run) -> dict[str, float]:
    """Return the seconds that each finished step of a run took, keyed by step name in the order of `steps_of`."""
    return run.seconds([step.name for step in steps_of(run)])


def trial_step(run: Run, candidate: dict[str, Any], fine_tune: bool) -> Step:
    """Return the step that exports a single candidate of the search, given its entry in `front.json`."""
    inputs, make = partial(exports.trial_inputs, candidate=candidate), partial(exports.make_trial, candidate=candidate)
    return _export_step(run, exports.trial_name(candidate), ("front",), inputs, make, fine_tune)


def _refuse_hours(run: Run, fine_tune: bool) -> None:
    """Raise `StudyError` if `training.hours` is too short, unless the supernet's training has already started."""
    has_started = run.is_finished("teacher") and run.is_started("supernet", supernets.supernet_inputs(run))
    if not has_started:
        allowance.refuse_too_few(run, steps_of(run, fine_tune))


def _check_separate_teacher(run: Run) -> None:
    """Check, before any fine-tuning, that the separate teacher fits the data; raise `TeacherError` if it does not."""
    separate_teacher.check_separate_teacher(run, data.splits(run).label_names)


def _embedded_step(run: Run) -> Step:
    return Step("embedded", (), sources.embedded_inputs, data.make_embedded, run.embedded, estimates.embedded)


def _unlabelled_step(run: Run) -> Step:
    inputs, make = unlabelled.unlabelled_inputs, unlabelled.make_unlabelled
    return Step("unlabelled", ("data",), inputs, make, run.unlabelled, estimates.unlabelled)


def _separate_teacher_steps(run: Run) -> Iterable[Step]:
    """Yield the steps of a student's separate teacher.

    If the study asks for fine-tuning, the first step fine-tunes this teacher. The last step stores its logits.
    """
    needs = ["taught labels", *(["unlabelled"] if run.study.task.unlabelled else [])]
    if run.study.teacher.fine_tune:
        inputs, make = separate_teacher.separate_teacher_inputs, separate_teacher.make_separate_teacher
        needs.append("separate-teacher")
        yield Step(
            "separate-teacher", ("taught labels",), inputs, make, run.separate_teacher, estimates.separate_teacher
        )
    inputs, make = separate_teacher.logits_inputs, separate_teacher.make_logits
    yield Step("teacher-logits", tuple(needs), inputs, make, run.teacher_logits, estimates.teacher_logits)


def _distillation_needs(study: Study) -> tuple[str, ...]:
    """Return the names of the steps that distillation needs in addition to the step `teacher`."""
    return (*(["unlabelled"] if study.task.unlabelled else []), *(["teacher-logits"] if study.student else []))


def _profile_names(devices: Iterable[Device]) -> tuple[str, ...]:
    return tuple(f"profile-{device.name}" for device in devices)


def _profile_step(run: Run, device: Device) -> Step:
    name, is_here = device.name, device.where != "elsewhere"
    return Step(
        f"profile-{name}",
        ("teacher",) if is_here else ("imports",),
        partial(profiles.profile_inputs, device=name),
        partial(profiles.make_profile, device=name) if is_here else None,
        run.profile(name),
        estimates.profile,
        other_outputs=(profiles.samples_of(run, name),),
        is_remote=device.where == "ray",
    )


def _baselines_step(run: Run, device: Device) -> Step:
    return Step(
        f"baselines-{device.name}",
        ("teacher",),
        partial(exports.baselines_inputs, device=device.name),
        partial(exports.make_baselines, device=device.name),
        run.baselines(device.name),
        estimates.baselines,
        is_remote=device.where == "ray",
    )


def _static_step(run: Run, device: Device) -> Step:
    return Step(
        f"static-{device.name}",
        (f"baselines-{device.name}",),
        partial(statics.static_inputs, device=device.name),
        partial(statics.make_static, device=device.name),
        statics.folder_of(run, device.name),
        estimates.static,
        is_remote=device.where == "ray",
    )


def _finalists_step(run: Run) -> Step:
    inputs, make = finalists.finalists_inputs, finalists.make_finalists
    return Step("finalists", ("front",), inputs, make, run.finalists, estimates.finalists, shares_hours=True)


def _budget_export_step(run: Run, budget: Budget, fine_tune: bool) -> Step:
    inputs, make = partial(exports.export_inputs, budget=budget), partial(exports.make_export, budget=budget)
    needs = ("front", "finalists") if fine_tune and run.study.export.fine_tune else ("front",)
    return _export_step(run, budget.name, needs, inputs, make, fine_tune)


def _export_step(
    run: Run,
    name: str,
    needs: tuple[str, ...],
    inputs: Callable[..., str],
    make: Callable[..., None],
    fine_tune: bool,
) -> Step:
    """Return the step that writes and verifies the export called `name`.

    `inputs` and `make` are called with the keyword `fine_tune`, which states whether the network is fine-tuned.
    """
    is_fine_tuned = fine_tune and run.study.export.fine_tune
    baseline_kinds = ("baselines", *(["static"] if task_kind(run.study.task.kind).has_static else []))
    return Step(
        f"export-{name}",
        (*needs, *(f"{kind}-{device.name}" for device in run.study.devices for kind in baseline_kinds)),
        partial(inputs, fine_tune=is_fine_tuned),
        partial(make, fine_tune=is_fine_tuned),
        run.export(name),
        estimates.export,
        other_outputs=(run.trainings(name),),
        current=partial(exports.is_current, name=name, inputs=inputs, fine_tune=is_fine_tuned),
    )
