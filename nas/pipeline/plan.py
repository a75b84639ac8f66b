"""What a study would do: checked without doing it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from nas.architecture import Architecture
from nas.budget import RATES
from nas.data.files import check_file
from nas.export.standalone import source_of
from nas.hub import Kind, Snapshot
from nas.latency.runtimes import check_runtime
from nas.model.precision import native_bf16
from nas.pipeline.exports import export_inputs
from nas.pipeline.prepare import (
    data_inputs,
    given_teacher,
    metric_of,
    teacher_folder,
    teacher_inputs,
)
from nas.pipeline.rows import Rows, look_at_rows, not_seen
from nas.pipeline.run import Run
from nas.pipeline.searches import check_storage, is_searched, profile_inputs, recipes
from nas.pipeline.snapshots import check_hub_data, looked_at, said_of_ids
from nas.pipeline.supernets import supernet_inputs
from nas.pipeline.teachers import check_teacher
from nas.search.uniform import most_uniform
from nas.study import Study

_PLACES = {"here": "", "ray": ", on a Ray node of that name", "elsewhere": ", measured by a bundle"}
_TYPICAL_SHARE = 1 / 3
"""The length of a text as a share of max_length, for estimates when the rows are not on this machine."""
_UNSEEN_ROWS = 20_000
"""Training rows, for the same estimates."""
_EFFICIENCY = 0.35
"""Share of the measured matrix rate that whole training and evaluation loops reach."""
_SMALL = 0.25
"""Share of the teacher's operations that an average candidate under budget takes."""


def plan(study: Study, runs: Path) -> dict[str, Any]:
    """Everything that can be checked before any work, what is in the rows, and an estimate of the time.

    Raises the error that the work would meet: a missing file, runtime or database, rows or labels that do not fit the
    task, a teacher of another shape, a compression method that cannot be exported. Nothing is written.
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
    rate = _rate()
    seconds = _estimate(study, rate * _EFFICIENCY, rows)
    tokens = f"texts of {rows.sets['train'].mean:.0f} tokens" if rows else "texts of a third of max_length"
    steps = [
        {"step": step, "state": "done" if done else "to do", "estimated_s": 0.0 if done else round(seconds[step])}
        for step, done in _states(run).items()
    ]
    return {
        "study": study.name,
        "task": f"{study.task.kind}, {metric_of(run).label}, {len(study.task.text)} text column(s)"
        + (f", {snapshots['dataset']}" if "dataset" in snapshots else ""),
        "teacher": str(snapshots.get("model", study.teacher.model))
        + (" (to be fine-tuned)" if study.teacher.fine_tune else ""),
        "space": space.name,
        "architectures": space.count(),
        "devices": [
            f"{device.name}: {device.runtime_in_words}, {device.threads} thread(s), batch {device.batch_size}, "
            f"{device.lengths_in_words}" + _PLACES[device.where]
            for device in study.devices
        ],
        "budgets": [
            f"{budget.name} on {limits.device}: "
            + ", ".join(f"{key} {'>=' if key in RATES else '<='} {value}" for key, value in limits.given.items())
            for budget in study.budgets
            for limits in budget.limits
        ],
        "steps": steps,
        "estimated_s": sum(step["estimated_s"] for step in steps),
        "assumption": f"{tokens}, {rate / 1e9:.0f} GFLOP/s measured",
        "rows": rows.to_json() if rows else None,
        "rows_not_seen": not_seen(study),
    }


def check_sources(study: Study) -> None:
    """Raise the error that data or teacher would meet, as far as they are files on this machine."""
    task = study.task
    if task.train == "embedded":
        return
    for name in (task.train, task.test):
        if not task.hub:
            check_file(study.resolve(name))
    source = given_teacher(study)
    if Path(source).is_dir():  # see check_hub for the others
        check_teacher(study, source)


@said_of_ids
def check_hub(run: Run) -> dict[Kind, Snapshot]:
    """The snapshots that a run is made from. Raises the error that reading them would meet; weights are not loaded."""
    found = looked_at(run)
    if "dataset" in found and not run.is_done("data", data_inputs(run)):
        check_hub_data(run.study.task, found["dataset"])
    if "model" in found:
        source = teacher_folder(run, weights=False)
        check_teacher(run.study, source, weights=False)
    return found


def check_choices(study: Study) -> None:
    """Raise `ExportError` where the code of the space's compression choices could not go with an export."""
    source_of(name for _, names in study.space.compression for name in names)


def _states(run: Run) -> dict[str, bool]:
    """Which steps are up to date, judged as the steps themselves do."""
    states = dict.fromkeys(("teacher", "supernet", "profile", "search", "export"), False)
    states["teacher"] = run.is_finished("teacher") and run.is_done("teacher", teacher_inputs(run))
    if not states["teacher"]:
        return states
    states["supernet"] = run.is_done("supernet", supernet_inputs(run))
    states["profile"] = all(
        run.is_finished(step := f"profile-{recipe.device.name}")
        # A Ray node is not looked for, only to see that it is the same.
        and (recipe.device.where == "ray" or run.is_done(step, profile_inputs(recipe)))
        for recipe in recipes(run)
    )
    states["search"] = states["supernet"] and states["profile"] and is_searched(run)
    states["export"] = states["search"] and all(
        run.is_done(f"export-{budget.name}", export_inputs(run, budget, run.study.export.fine_tune))
        for budget in run.study.budgets
    )
    return states


def _rate() -> float:
    """Operations a second of a matrix product, as training uses it."""
    kind = torch.bfloat16 if native_bf16("cpu") else torch.float32
    matrix = torch.ones(768, 768, dtype=kind)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(10):
        matrix @ matrix
    return 10 * 2 * 768**3 / (time.perf_counter() - started)


def _operations(architecture: Architecture, head_size: int) -> float:
    """Operations for one token, matrix products of the layers only."""
    hidden = architecture.hidden_size
    return sum(
        2.0 * hidden * (4 * layer.num_attention_heads * head_size + 2 * layer.intermediate_size)
        for layer in architecture.resolved
    )


def _estimate(study: Study, rate: float, rows: Rows | None) -> dict[str, float]:
    """Seconds of each step, at `rate` operations per second."""
    space = study.space
    full = _operations(space.largest(), space.teacher.head_size)
    tokens = max(8.0, rows.sets["train"].mean if rows else study.task.max_length * _TYPICAL_SHARE)
    examples = rows.sets["train"].rows if rows else _UNSEEN_ROWS
    judged = rows.judged if rows else study.task.holdout.size
    per_pass = examples * tokens * full / rate
    settings, tuning = study.supernet, study.teacher.fine_tune
    # A step: the teacher forward; forward and backward (3 passes) of the largest and of random ones of half its size.
    passes = 1 + 3 * (1 + 0.5 * settings.random_subnets)
    evaluated = study.search.evaluations + most_uniform(space, len(study.budgets))
    blocks = len(space.attention_options) + len(space.feed_forward_options)
    return {
        "teacher": 3 * per_pass * tuning.epochs if tuning else 5.0,
        "supernet": settings.steps * settings.batch_size * tokens * full * passes / rate,
        "profile": len(study.devices) * (20 + 0.4 * blocks * len(space.dimensions.hidden_size)),
        "search": evaluated * judged * tokens * full * _SMALL / rate,
        "export": len(study.budgets) * (15 + per_pass * (1 + 3 * _SMALL) * study.export.epochs),
    }
