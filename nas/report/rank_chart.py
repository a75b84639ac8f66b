"""The chart that compares two accuracies of sub-networks: with the supernet's weights, and after individual training.

If the dots lie close to a rising curve, the supernet ranks sub-networks well.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from nas.report.contents import Record
from nas.report.numbers import score
from nas.report.svg import AxisScale, drawing, element, frame, tooltip

_WIDTH, _HEIGHT = 420.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 404.0, 28.0, 346.0


def rank_chart(rows: Sequence[Record]) -> Markup:
    """Return the chart as an SVG element.

    Each row contains a `description` and two accuracies: `inherited` (with the supernet's weights) and `tuned` (after
    individual training).
    """
    x = AxisScale.around([row["inherited"] for row in rows], _LEFT, _RIGHT, logarithmic=False)
    y = AxisScale.around([row["tuned"] for row in rows], _BOTTOM, _TOP, logarithmic=False)
    dots = "".join(
        element("circle", _tip(row), cx=x(row["inherited"]), cy=y(row["tuned"]), r=4.5, class_="held-out")
        for row in rows
    )
    label = "Accuracy with inherited weights against accuracy after individual training"
    return drawing(
        _WIDTH, _HEIGHT, label, "chart", frame(x, y, "with inherited weights", "trained individually") + dots
    )


def _tip(row: Record) -> str:
    return tooltip(
        f"{row['description']}\ninherited {score(row['inherited'])}\ntrained individually {score(row['tuned'])}"
    )
