"""Writes the report of a run: collects the results in the run's folder, and writes `report.html` and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.data.sample import SAMPLE_FILE
from nas.errors import DataError, DeviceError, SearchError, TeacherError
from nas.files import read_json, write_text
from nas.pipeline.data import metric_of
from nas.pipeline.exports import baselines, exported, missed_floors, verification
from nas.pipeline.outdated import outdated
from nas.pipeline.run import Run
from nas.pipeline.searches import front
from nas.pipeline.seeds import spread_of
from nas.pipeline.separate_teacher import about_separate_teacher
from nas.pipeline.steps import seconds
from nas.pipeline.supernets import supernet_inputs
from nas.pipeline.unlabelled import unlabelled_counts
from nas.progress import say
from nas.report.architecture_drawing import architectures_of, architectures_picture
from nas.report.contents import Contents
from nas.report.front_chart import front_picture
from nas.report.loading import Snippet, snippets
from nas.report.page import render
from nas.supernet.loops import LOG_FILE
from nas.tasks import task_kind

RANKING_FILE = "rank_correlation.json"
"""The file with the supernet's rank correlation, which `scripts/bench/rank_correlation` writes."""


def report(run: Run) -> Path:
    """Write `report.html` and two pictures. Return the path of `report.html`.

    The pictures are `front.svg` (the Pareto front on the first device for which the search predicted latencies) and
    `architectures.svg` (the exported architectures). A picture without content is not written. Raises `NasError` if the
    run has no results yet.
    """
    contents = _contents(run)
    if contents.outdated:
        say(contents.outdated)
    path = run.folder / "report.html"
    write_text(path, render(contents))
    if contents.searched_devices:
        write_text(run.folder / "front.svg", front_picture(contents, contents.searched_devices[0]))
    if contents.exports:
        architectures = dict(zip(contents.exports, architectures_of(contents.exports.values()), strict=True))
        picture = architectures_picture(architectures, contents.teacher, f"{contents.study}: exported architectures")
        write_text(run.folder / "architectures.svg", picture)
    return path


def _contents(run: Run) -> Contents:
    """Return the results of a run. Exports are included only if they are up to date with the study.

    All other results are included even if they are outdated; in this case, the page shows a warning. Results of
    interrupted steps are left out.
    """
    study = run.study
    exports = {name: verification(run, name) for name in exported(run)}
    profiled_devices = [device.name for device in study.devices if run.is_finished(f"profile-{device.name}")]
    return Contents(
        study=study.name,
        metric=metric_of(run).label,
        metric_note=metric_of(run).note,
        teacher=study.space.teacher,
        devices=study.devices,
        budgets=study.budgets,
        front=front(run) if run.is_finished("front") else None,
        baselines=_baselines(run),
        exports=exports,
        snippets={name: _snippets(run, name) for name in exports},
        usage=study.task.variant.usage,
        profiles={name: read_json(run.profile(name), DeviceError) for name in profiled_devices},
        supernet_log=_training_log(run.supernet, run.is_finished("supernet")),
        teacher_log=_training_log(run.teacher, run.is_finished("teacher")),
        export_logs={name: _export_log(export) for name, export in exports.items()},
        rank_correlation=_ranking(run),
        seeds=spread_of(run),
        separate_teacher=about_separate_teacher(run),
        student=study.student.model if study.student else "",
        unlabelled=counts.summary() if (counts := unlabelled_counts(run)) else "",
        seconds=seconds(run),
        sample=read_json(sample, DataError) if (sample := run.data / SAMPLE_FILE).exists() else {},
        missed=missed_floors(run),
        outdated=outdated(run),
    )


def _ranking(run: Run) -> dict[str, Any] | None:
    """Return the content of `RANKING_FILE` if it belongs to the run's current supernet, else None."""
    path = run.folder / RANKING_FILE
    found: dict[str, Any] = read_json(path, SearchError) if path.exists() else {}
    return found if found and found.get("supernet") == supernet_inputs(run) else None


def _snippets(run: Run, name: str) -> list[Snippet]:
    folder = run.export(name)
    task, files = run.study.task, [path.name for path in folder.iterdir()]
    return snippets(folder.as_posix(), files, len(task.text) > 1, task_kind(task.kind))


def _export_log(export: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the accuracies of an exported network during its final training, as entries of a training log."""
    return [{"step": step, "eval_accuracy": value} for step, value in export["search_accuracy_in_training"]]


def _baselines(run: Run) -> dict[str, Any]:
    def is_finished(name: str) -> bool:
        device, kind = name.split("/")
        return run.is_finished(f"static-{device}" if kind == "static" else f"baselines-{device}")

    return {name: found for name, found in baselines(run).items() if is_finished(name)}


def _training_log(folder: Path, finished: bool) -> list[dict[str, Any]]:
    path = folder / LOG_FILE
    return read_json(path, TeacherError) if finished and path.exists() else []
