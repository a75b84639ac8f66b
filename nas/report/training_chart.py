"""Charts of loss and accuracy over the steps of one training run."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from nas.report.contents import Record
from nas.report.svg import AxisScale, drawing, element, frame, path, tooltip

_WIDTH, _HEIGHT = 420.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 404.0, 28.0, 246.0
_MOST_DOTS = 60
"""If a curve has at most this many values, each value is drawn as a dot. More dots would hide the line."""


def training_chart(log: Sequence[Record], key: str, label: str, name: str) -> Markup:
    """Return the curve of the values of `key` as an SVG element, or an empty string for fewer than two values.

    `label` is a description for screen readers. `name` is written above the vertical axis.
    """
    entries = [(float(item["step"]), float(item[key])) for item in log if key in item and "step" in item]
    if len(entries) < 2:
        return Markup()
    steps, values = zip(*entries, strict=True)
    x = AxisScale(0.0, max(steps), _LEFT, _RIGHT)
    y = AxisScale.around(values, _BOTTOM, _TOP)
    kind = " (logarithmic)" if y.logarithmic else ""
    content = frame(x, y, "step", f"{name}{kind}") + path([(x(step), y(value)) for step, value in entries], "loss")
    for step, value in entries if len(entries) <= _MOST_DOTS else ():
        tip = tooltip(f"step {step:.0f}: {value:.4f}")
        content += element("circle", tip, cx=x(step), cy=y(value), r=3.5, class_="loss-dot")
    return drawing(_WIDTH, _HEIGHT, label, "chart", content)
