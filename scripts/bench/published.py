"""Compare the exports of a study with published networks: accuracy lost against the teacher, and speed-up over it.

The benchmark reads the records in `verification/` and the published networks in `published.json`. Both are in the
folder of the study. It prints a table, and draws `speedup.svg` into the same folder. Each network is compared with its
own teacher on the hardware on which both were measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import common
from rich.console import Console
from rich.table import Table

from nas.errors import StudyError
from nas.files import read_json, write_text
from nas.report.svg import AxisScale, element, frame, picture, text, tooltip

_WIDTH, _HEIGHT = 640.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 624.0, 28.0, 360.0
_LABEL_WIDTH = 80.0


class Point(NamedTuple):
    """A network in comparison with its teacher."""

    name: str
    speed_up: float
    points_lost: float
    """The loss of accuracy, in percentage points."""
    accuracy: float
    """The accuracy, in percent."""
    hardware: str


def own_points(folder: Path) -> list[Point]:
    """Return the points of a study's exports and baselines. Raises `StudyError` if there are no records."""
    records = {path.stem: read_json(path, StudyError) for path in sorted((folder / "verification").glob("*.json"))}
    if "teacher" not in records or len(records) < 2:
        raise StudyError(
            f"{folder}: must contain verification/teacher.json and a record of each export; copy them here from the run"
        )
    teacher = records.pop("teacher")["accuracy"]
    return [
        Point(
            name,
            record["teacher_p50_ms"] / record["p50_ms"],
            100.0 * (teacher - record["accuracy"]),
            100.0 * record["accuracy"],
            "this study",
        )
        for name, record in records.items()
    ]


def published_points(folder: Path) -> list[Point]:
    """Return the points in `published.json`, which is a list of objects with the fields of `Point`."""
    return [Point(**item) for item in read_json(folder / "published.json", StudyError)]


def _picture(own: list[Point], published: list[Point]) -> str:
    """Return a chart as the text of an SVG file.

    Points in `own` are diamonds, and points in `published` are rectangles.
    """
    x = AxisScale.around([point.speed_up for point in [*own, *published]], _LEFT, _RIGHT, logarithmic=True)
    y = AxisScale.around([0.0, *(point.points_lost for point in [*own, *published])], _BOTTOM, _TOP, logarithmic=False)
    marks = "".join(_mark(point, x, y, is_own=False) for point in published)
    marks += "".join(_mark(point, x, y, is_own=True) for point in own)
    axes = frame(x, y, "speed-up over the teacher", "accuracy lost (points)")
    chart = element("g", axes + marks, class_="chart")
    label = "Accuracy lost against speed-up, for the exports of this study and for published networks"
    return picture(_WIDTH, _HEIGHT, label, chart)


def _mark(point: Point, x: AxisScale, y: AxisScale, is_own: bool) -> str:
    at_x, at_y = x(point.speed_up), y(point.points_lost)
    tip = tooltip(f"{point.name}\n{point.speed_up:.1f}x, {point.points_lost:.1f} points lost\n{point.hardware}")
    if is_own:
        shape = f"M{at_x},{at_y - 6} l6,6 l-6,6 l-6,-6 Z"
        symbol = element("path", tip, d=shape, class_="export")
    else:
        symbol = element("rect", tip, x=at_x - 5, y=at_y - 5, width=10, height=10, class_="uniform")
    is_at_edge = at_x > _RIGHT - _LABEL_WIDTH  # the name then stands to the left of the symbol
    name_x, anchor = (at_x - 9, "end") if is_at_edge else (at_x + 9, "start")
    return symbol + text(name_x, at_y - 7, point.name, "label" if is_own else "", anchor)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table, draw the picture, and return all points."""
    folder = arguments.folder
    own, published = own_points(folder), published_points(folder)
    table = Table("network", "speed-up", "points lost", "accuracy", "hardware")
    for point in sorted([*own, *published], key=lambda point: point.speed_up):
        table.add_row(
            point.name, f"{point.speed_up:.1f}x", f"{point.points_lost:.1f}", f"{point.accuracy:.1f}", point.hardware
        )
    Console().print(table)
    write_text(folder / "speedup.svg", _picture(own, published))
    return {"own": [point._asdict() for point in own], "published": [point._asdict() for point in published]}


if __name__ == "__main__":
    parser = common.parser(__doc__, with_study=False)
    parser.add_argument("folder", type=Path, help="folder of the study, with verification/ and published.json")
    common.run_benchmark(parser.parse_args(), measure)
