"""The loss over the steps of one training."""

from __future__ import annotations

from collections.abc import Sequence

from nas.report.contents import Record
from nas.report.svg import Scale, drawing, element, frame, path, tooltip

_WIDTH, _HEIGHT = 420.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 404.0, 28.0, 246.0
_FEW = 60
"""Up to so many entries each one is marked with a dot; more would only thicken the line."""


def loss_chart(log: Sequence[Record], label: str) -> str:
    """The curve, or nothing where the log holds fewer than two losses."""
    entries = [(float(item["step"]), float(item["loss"])) for item in log if "loss" in item and "step" in item]
    if len(entries) < 2:
        return ""
    steps, losses = zip(*entries, strict=True)
    x = Scale(0.0, max(steps), _LEFT, _RIGHT)
    y = Scale.around(losses, _BOTTOM, _TOP)
    kind = " (logarithmic)" if y.logarithmic else ""
    content = frame(x, y, "step", f"loss{kind}") + path([(x(step), y(loss)) for step, loss in entries], "loss")
    for step, loss in entries if len(entries) <= _FEW else ():
        tip = tooltip(f"step {step:.0f}: {loss:.4f}")
        content += element("circle", tip, cx=x(step), cy=y(loss), r=3.5, class_="loss-dot")
    return drawing(_WIDTH, _HEIGHT, label, "chart", content)
