"""Lists a study's steps and checks in order of execution, for the commands, `nas check` and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

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
from nas.tasks import task_kind


def steps_of(run: Run, fine_tune: bool = True) -> tuple[Step | Check, ...]:
    """Return the steps and checks of a run's study. Each step comes after all steps and checks that it needs.

    If `fine_tune` is not set, exports keep the weights that they inherit from the supernet.
    """
    return tuple(_steps(run, fine_tune and run.study.export.fine_tune))


def _steps(run: Run, fine_tune: bool) -> Iterator[Step | Check]:
    study = run.study
    reachable = [device for device in study.devices if device.where != "elsewhere"]
    off_cluster = [device for device in study.devices if device.where == "elsewhere"]
    yield Check("storage", (), lambda run: searches.check_storage(run.study))
    yield Check("reports", (), watching.check_reports)
    yield Check("other training", (), supernets.refuse_other_training)
    yield Check("hours", (), partial(_refuse_hours, fine_tune=fine_tune))
    is_embedded = study.task.train == "embedded"
    if is_embedded:
        yield Step("embedded", (), sources.embedded_inputs, data.make_embedded, run.embedded, estimates.embedded)
    yield Check("sources", ("embedded",) if is_embedded else (), sources.settle_sources)
    yield Step("data", ("sources",), sources.data_inputs, data.make_data, run.data, estimates.data)
    yield Check("labels", ("data",), data.check_labels)
    if study.task.unlabelled:
        inputs, make = unlabelled.unlabelled_inputs, unlabelled.make_unlabelled
        yield Step("unlabelled", ("data",), inputs, make, run.unlabelled, estimates.unlabelled)
    if study.student:
        yield Check("taught labels", ("data",), _check_separate_teacher)
    inputs, make = sources.teacher_inputs, teachers.make_teacher
    yield Step("teacher", ("labels", "reports"), inputs, make, run.teacher, estimates.teacher)
    if study.student:
        yield from _separate_teacher_steps(run)
    yield from (_profile_step(run, device) for device in reachable)
    yield Check("imports", ("teacher", *_profile_names(reachable)), profiles.refuse_unmeasured)
    yield from (_profile_step(run, device) for device in off_cluster)
    yield Check("budgets", _profile_names(study.devices), profiles.check_feasible)
    yield from (_baselines_step(run, device) for device in study.devices)  # their duration predicts that of exports
    if task_kind(study.task.kind).has_static:
        yield from (_static_step(run, device) for device in study.devices)
    yield Check("hours left", ("teacher",), partial(_refuse_hours, fine_tune=fine_tune))
    yield Step(
        "supernet",
        (
            "other training",
            "hours",
            *(["budgets"] if study.is_near_budgets else []),
            *(["unlabelled"] if study.task.unlabelled else []),
            *(["teacher-logits"] if study.student else []),
            "hours left",
        ),
        supernets.supernet_inputs,
        supernets.make_supernet,
        run.supernet,
        estimates.supernet,
        shares_hours=True,
    )
    yield Step(
        "search",
        ("storage", "budgets", "supernet"),
        searches.search_inputs,
        searches.make_search,
        run.journal.parent,
        estimates.search,
        current=searches.is_searched,
        shares_hours=True,
    )
    yield Step("front", ("search",), searches.front_inputs, searches.make_front, run.front, estimates.front)
    if fine_tune:
        inputs, make = finalists.finalists_inputs, finalists.make_finalists
        yield Step("finalists", ("front",), inputs, make, run.finalists, estimates.finalists, shares_hours=True)
    for budget in study.budgets:
        inputs, make = partial(exports.export_inputs, budget=budget), partial(exports.make_export, budget=budget)
        yield _export_step(run, budget.name, ("front", *(["finalists"] if fine_tune else [])), inputs, make, fine_tune)


def seconds(run: Run) -> dict[str, float]:
    """Return the seconds that each finished step of a run took, keyed by step name in the order of `steps_of`."""
    return run.seconds([step.name for step in steps_of(run)])


def trial_step(run: Run, candidate: dict[str, Any], fine_tune: bool) -> Step:
    """Return the step that exports a single candidate of the search, given its entry in `front.json`."""
    inputs, make = partial(exports.trial_inputs, candidate=candidate), partial(exports.make_trial, candidate=candidate)
    is_fine_tuned = fine_tune and run.study.export.fine_tune
    return _export_step(run, exports.trial_name(candidate), ("front",), inputs, make, is_fine_tuned)


def _refuse_hours(run: Run, fine_tune: bool) -> None:
    """Raise `StudyError` if `training.hours` is too short, unless the supernet's training has already started."""
    has_started = run.is_finished("teacher") and run.is_started("supernet", supernets.supernet_inputs(run))
    if not has_started:
        allowance.refuse_too_few(run, steps_of(run, fine_tune))


def _check_separate_teacher(run: Run) -> None:
    """Check, before any fine-tuning, that the separate teacher fits the data; raise `TeacherError` if it does not."""
    separate_teacher.check_separate_teacher(run, data.splits(run).label_names)


def _separate_teacher_steps(run: Run) -> Iterator[Step]:
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
    baseline_kinds = ("baselines", *(["static"] if task_kind(run.study.task.kind).has_static else []))
    return Step(
        f"export-{name}",
        (*needs, *(f"{kind}-{device.name}" for device in run.study.devices for kind in baseline_kinds)),
        partial(inputs, fine_tune=fine_tune),
        partial(make, fine_tune=fine_tune),
        run.export(name),
        estimates.export,
        other_outputs=(run.trainings(name),),
        current=partial(exports.is_current, name=name, inputs=inputs, fine_tune=fine_tune),
    )
