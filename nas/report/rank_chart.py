"""Accuracy with inherited weights against accuracy after training alone: whether the supernet ranks rightly."""

from __future__ import annotations

from collections.abc import Sequence

from nas.report.contents import Record
from nas.report.figures import score
from nas.report.svg import Scale, drawing, element, frame, tooltip

_WIDTH, _HEIGHT = 420.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 404.0, 28.0, 346.0


def rank_chart(rows: Sequence[Record]) -> str:
    """A dot for each architecture; `inherited` and `tuned` are accuracies."""
    x = Scale.around([row["inherited"] for row in rows], _LEFT, _RIGHT, logarithmic=False)
    y = Scale.around([row["tuned"] for row in rows], _BOTTOM, _TOP, logarithmic=False)
    dots = "".join(
        element("circle", _tip(row), cx=x(row["inherited"]), cy=y(row["tuned"]), r=4.5, class_="held-out")
        for row in rows
    )
    label = "Accuracy with inherited weights against accuracy after training alone"
    return drawing(_WIDTH, _HEIGHT, label, "chart", frame(x, y, "with inherited weights", "trained alone") + dots)


def _tip(row: Record) -> str:
    return tooltip(f"{row['description']}\ninherited {score(row['inherited'])}\ntrained alone {score(row['tuned'])}")
