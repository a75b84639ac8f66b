"""Plans a study: checks its settings and inputs, and estimates the time of each step, but does not run any step.

`nas check` prints the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from nas.budget import RATES, Budget
from nas.data.files import check_file
from nas.errors import counted
from nas.export.standalone import source_of
from nas.hub import Snapshot
from nas.pipeline.allowance import divided_seconds
from nas.pipeline.data import metric_of
from nas.pipeline.estimates import Workload, measured_rate
from nas.pipeline.rows import look_at_rows, not_seen
from nas.pipeline.run import Run
from nas.pipeline.runner import states
from nas.pipeline.searches import check_storage
from nas.pipeline.separate_teacher import operations_for_a_token
from nas.pipeline.snapshots import Role, check_hub_data, errors_with_hub_ids, snapshots_of
from nas.pipeline.sources import check_distinct, data_inputs, given_files, given_teacher, teacher_folder
from nas.pipeline.steps import steps_of
from nas.pipeline.teacher_checks import check_teacher
from nas.report.numbers import in_points
from nas.runtimes import check_runtime
from nas.study import Study, TeacherSettings

_PLACE_IN_WORDS = {
    "here": "",
    "ray": ", on the Ray node of the same name",
    "elsewhere": ", outside the cluster, to be measured with nas device bundle",
}


def plan(study: Study, runs: Path) -> dict[str, Any]:
    """Check a study without running its steps. Return the plan: settings, rows, steps and estimated times.

    Raises the error with which `nas run` would fail. For example, a file, runtime or database is missing, rows or
    labels do not fit the task, the teacher does not fit the search space, or a compression method cannot be exported.
    Writes nothing to the run's folder.
    """
    run = Run.of(study, runs)
    space = study.space
    for device in study.devices:
        check_runtime(device)
    check_sources(study)
    snapshots = check_hub(run)
    check_storage(study)
    check_choices(study)
    rows = look_at_rows(run)
    rate = measured_rate()
    workload = replace(Workload.of(study, rows, rate), teacher_operations=operations_for_a_token(run) or 0.0)
    assumed_lengths = (
        f"texts of {rows.sets['train'].mean:.0f} tokens on average"
        if rows
        else "the mean text length assumed to be a third of task.max_length"
    )
    step_states, seconds_taken = states(run, steps_of(run)), run.seconds()
    if study.training.hours:
        estimated_seconds = divided_seconds(
            study, workload, [(step, seconds_taken[step.name] if done else None) for step, done in step_states]
        )
    else:
        estimated_seconds = {step.name: 0.0 if done else step.seconds(study, workload) for step, done in step_states}
    steps = [
        {"step": step.name, "state": "done" if done else "to do", "estimated_s": round(estimated_seconds[step.name])}
        for step, done in step_states
    ]
    form = study.task.variant.form(teacher_folder(run, weights=False))
    outputs = study.task.variant.describe_outputs(space.dimensions.hidden_size, form)
    return {
        "study": study.name,
        "task": f"{study.task.kind}, {metric_of(run).label}, {counted(len(study.task.text), 'text column')}"
        + (f", {snapshots['dataset']}" if "dataset" in snapshots else ""),
        "teacher": _model_in_words(study.teacher, snapshots.get("separate teacher" if study.student else "model")),
        **({"student": _model_in_words(study.student, snapshots.get("model"))} if study.student else {}),
        **({"outputs": outputs} if outputs else {}),
        "space": space.name,
        "architectures": space.count(),
        "devices": [
            f"{device.name}: {device.runtime_in_words}, {counted(device.threads, 'thread')}, "
            f"batch {device.batch_size}, {device.lengths_in_words}" + _PLACE_IN_WORDS[device.where]
            for device in study.devices
        ],
        "budgets": [line for budget in study.budgets for line in _budget_in_words(budget)],
        "hours": study.training.hours,
        "steps": steps,
        "estimated_s": sum(step["estimated_s"] for step in steps),
        "assumption": f"{assumed_lengths}, {rate / 1e9:.0f} GFLOP/s measured on this machine",
        "rows": rows.to_json() if rows else None,
        "rows_not_seen": not_seen(study),
    }


def _budget_in_words(budget: Budget) -> Iterator[str]:
    """Yield a line for each device on which a budget has limits, and a line for the budget's accuracy floor."""
    for limits in budget.limits:
        conditions = (f"{key} {'>=' if key in RATES else '<='} {value}" for key, value in limits.given.items())
        yield f"{budget.name} on {limits.device}: {', '.join(conditions)}"
    if budget.has_floor:
        floor = [] if budget.accuracy is None else [f"accuracy >= {budget.accuracy:g}"]
        floor += (
            []
            if budget.accuracy_loss is None
            else [f"accuracy >= the teacher's minus {in_points(budget.accuracy_loss)}"]
        )
        yield f"{budget.name}: {', '.join(floor)} on the search set, with the lowest {budget.minimise}"


def _model_in_words(settings: TeacherSettings, snapshot: Snapshot | None) -> str:
    """Return the name of a model, with a note if the model will be fine-tuned or its outputs are read from the data."""
    tuned = " (to be fine-tuned)" if settings.fine_tune else ""
    return str(snapshot or settings.model) + (
        tuned if settings.is_loaded else " (its outputs are read from columns of the data)"
    )


def check_sources(study: Study) -> None:
    """Raise the error that reading the data or the teacher would raise. Check only files on this machine."""
    task = study.task
    files = given_files(study)
    for path in (*chain.from_iterable(files.values()), *map(study.resolve, task.unlabelled_files)):
        check_file(path)
    check_distinct(files)
    if task.train == "embedded":
        return
    source = given_teacher(study)
    if Path(source).is_dir():  # `check_hub` checks models of the hub
        check_teacher(study, source)


@errors_with_hub_ids
def check_hub(run: Run) -> dict[Role, Snapshot]:
    """Return the hub snapshots that a run uses, keyed by role.

    Raises the error that reading these snapshots would raise. Weights are neither downloaded nor checked.
    """
    snapshots = snapshots_of(run)
    if "dataset" in snapshots and not run.is_done("data", data_inputs(run)):
        check_hub_data(run.study.task, snapshots["dataset"])
    if "model" in snapshots:
        source = teacher_folder(run, weights=False)
        check_teacher(run.study, source, weights=False)
    return snapshots


def check_choices(study: Study) -> None:
    """Raise `ExportError` if the code of one of the space's compression methods cannot be copied into exports."""
    source_of(name for _, names in study.space.compression for name in names)
