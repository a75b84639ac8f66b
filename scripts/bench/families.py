"""Compare families of compression techniques: run a study once per search space, with the same training and search.

The search spaces are in the folder `spaces` next to the study file. Each one allows one family of techniques, or
several together. If a space allows dropping tokens or early exits, latency is measured at the text lengths of the task.
If it allows early exits, budgets limit the mean latency instead of the median. For each budget that a space can meet,
the best network of the space is exported and verified. After each space, its results replace those of its earlier run
in `results.json` next to the study file. This file keeps the results of all other spaces.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import common
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from nas.budget import Budget
from nas.errors import InfeasibleBudgetError, MissedBudgetsError, StudyError
from nas.files import read_json, write_json, write_text
from nas.pipeline import Run, export, profile
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.exports import verification
from nas.pipeline.finalists import training_steps
from nas.pipeline.supernets import supernet_steps
from nas.pipeline.teachers import teacher_config
from nas.report.style import NUM_METHOD_COLOURS
from nas.report.svg import AxisScale, element, frame, path, picture, text, tooltip
from nas.search.costs import Costs
from nas.space import SearchSpace
from nas.study import Study

_SHOWN_RANGE = 0.1
STUDY = Path(__file__).parents[2] / "studies" / "one-technique-or-many"


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the study with all spaces, or only with those that `--only` names. Return the records of all spaces."""
    folder = run.study.path.parent
    spaces = sorted((folder / "spaces").glob("*.toml"))
    prepare_teacher(run)
    for space in spaces:
        if not arguments.only or space.stem in arguments.only:
            _replace_records(folder / "results.json", space.stem, _records(run, space))
    records = read_json(folder / "results.json", StudyError)
    _show(records)
    by_size = any(limits.size_mb for budget in run.study.budgets for limits in budget.limits)
    write_text(folder / "families.svg", _picture(records, by_size))
    return {"records": records}


def _records(run: Run, path: Path) -> list[dict[str, Any]]:
    """Run the study with one search space, and return one record per budget of the study."""
    study = _with_space(run.study, path)
    space_run = Run.of(study, run.folder.parent)
    _copy_teacher(run, space_run)
    profiles = profile(space_run)
    reached: list[Budget] = []
    record_of_budget: dict[str, dict[str, Any]] = {}
    for budget in study.budgets:
        costs = Costs(teacher_config(space_run), profiles, (budget,))
        try:
            costs.check_feasible(study.space)
            reached.append(budget)
        except InfeasibleBudgetError as problem:
            record_of_budget[budget.name] = {"reached": False, "why": str(problem)}
    if reached:
        space_run.study = Study.model_validate(
            study.model_dump() | {"budgets": [item.model_dump() for item in reached]}
        )
        missed = dict[str, str]()
        try:
            export(space_run)
        except MissedBudgetsError as problem:  # the other budgets have exports
            missed = problem.reasons
        for name in (budget.name for budget in reached):
            is_exported = name not in missed
            record_of_budget[name] = (
                _record(verification(space_run, name)) if is_exported else {"reached": False, "why": missed[name]}
            )
    details = {"space": path.stem, "sequence_length": study.devices[0].sequence_length}
    details |= {
        "supernet_steps": supernet_steps(space_run) if reached else 0,
        "final_steps": training_steps(space_run) if reached else 0,
    }
    return [{"budget": budget.name, **details, **record_of_budget[budget.name]} for budget in study.budgets]


def _record(verified: dict[str, Any]) -> dict[str, Any]:
    keys = ("search_accuracy", "p50_ms", "expected_ms", "teacher_p50_ms", "size_mb", "description", "met")
    return {"reached": True, "test_accuracy": verified["accuracy"]} | {key: verified[key] for key in keys}


def _with_space(study: Study, path: Path) -> Study:
    values = study.model_dump()
    values |= {"name": f"{study.name}-{path.stem}", "search_space": {"name": str(path)}}
    dimensions = SearchSpace.load(path).dimensions
    if dimensions.keep_tokens or dimensions.exit_threshold:
        values["devices"] = [device | {"sequence_length": "task"} for device in values["devices"]]
    if dimensions.exit_threshold:  # the median would ignore the texts that exit late
        values["budgets"] = [
            budget | {"limits": [_with_mean_limit(limits) for limits in budget["limits"]]}
            for budget in values["budgets"]
        ]
    return Study.model_validate(values)


def _with_mean_limit(limits: dict[str, Any]) -> dict[str, Any]:
    return limits | {"p50_ms": None, "expected_ms": limits["p50_ms"]}


def _copy_teacher(run: Run, other: Run) -> None:
    """Copy the data and the teacher of `run` to the run `other`, unless `other` has them already.

    They do not depend on the search space.
    """
    for name in ("data", "teacher"):
        source_mark, target_mark = (folder / "steps" / f"{name}.json" for folder in (run.folder, other.folder))
        if target_mark.exists() and target_mark.read_bytes() == source_mark.read_bytes():
            continue
        target_mark.unlink(missing_ok=True)
        shutil.rmtree(other.folder / name, ignore_errors=True)
        shutil.copytree(run.folder / name, other.folder / name)
        target_mark.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source_mark, target_mark)


def _replace_records(path: Path, space: str, records: list[dict[str, Any]]) -> None:
    records_before = read_json(path, StudyError) if path.exists() else []
    write_json(path, [record for record in records_before if record["space"] != space] + records)


def _show(records: list[dict[str, Any]]) -> None:
    """Print all records as a Markdown table, which is meant for the README of the study."""
    budgets = list(dict.fromkeys(record["budget"] for record in records))
    table = Table(box=MARKDOWN)
    for column in ("space", "lengths", *budgets):
        table.add_column(column, no_wrap=True)
    for space in dict.fromkeys(record["space"] for record in records):
        record_of_budget = {record["budget"]: record for record in records if record["space"] == space}
        lengths = str(next(iter(record_of_budget.values()))["sequence_length"])
        table.add_row(
            space,
            lengths,
            *(_cell(record_of_budget[budget]) if budget in record_of_budget else "" for budget in budgets),
        )
    Console(width=200).print(table)


def _cell(record: dict[str, Any]) -> str:
    if not record["reached"]:
        return "not reached"
    accuracy = f"{100 * record['search_accuracy']:.1f} / {100 * record['test_accuracy']:.1f}"
    return f"{accuracy} at {100 * _share(record):.1f} %, {record['size_mb']:.1f} MB"


def _share(record: dict[str, Any]) -> float:
    """Return the latency as a share of the teacher's latency.

    This is the mean latency for networks with early exits, and the median latency for all other networks.
    """
    latency: float = record["expected_ms" if record["space"] == "exits" else "p50_ms"]
    return latency / record["teacher_p50_ms"]


def _picture(records: list[dict[str, Any]], by_size: bool) -> str:
    """Draw a chart of the accuracy on the search set over size or latency, with one colour per space.

    Networks with low accuracy are left out.
    """
    reached = [record for record in records if record["reached"]]
    best = max(record["search_accuracy"] for record in reached)
    reached = [record for record in reached if record["search_accuracy"] > best - _SHOWN_RANGE]
    spaces = list(dict.fromkeys(record["space"] for record in reached))

    def cost(record: dict[str, Any]) -> float:
        return float(record["size_mb"]) if by_size else 100 * _share(record)

    x = AxisScale.around([cost(record) for record in reached], 66.0, 560.0, logarithmic=True)
    y = AxisScale.around([100 * record["search_accuracy"] for record in reached], 376.0, 40.0)
    content = frame(x, y, "MB" if by_size else "% of the teacher's latency", "accuracy on the search set")
    for number, space in enumerate(spaces):
        points = sorted(
            (cost(record), 100 * record["search_accuracy"]) for record in reached if record["space"] == space
        )
        style = f"choice-{number % NUM_METHOD_COLOURS}"
        points_on_chart = [(x(x_value), y(accuracy)) for x_value, accuracy in dict.fromkeys(points)]
        content += path(points_on_chart, "front") if len(points_on_chart) > 1 else ""
        content += "".join(
            element("circle", tooltip(space), cx=x_value, cy=height, r=6, class_=style)
            for x_value, height in points_on_chart
        )
        content += element("circle", cx=590.0, cy=60.0 + 22 * number, r=6, class_=style)
        content += text(604.0, 64.0 + 22 * number, space, "label")
    return picture(720, 440, "families", element("g", content, class_="chart", transform="translate(6 8)"))


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.set_defaults(study=str(STUDY))
    parser.add_argument(
        "--only", action="append", default=[], metavar="SPACE", help="run only this space; may be repeated"
    )
    common.main(parser.parse_args(), measure)
