"""Building blocks of all charts: escaped SVG elements, scales with ticks at round numbers, and axes with a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from nas.report.style import standalone_style

_TICKS = 6
_LOGARITHMIC_RATIO = 6.0
"""By default, an axis is logarithmic if the ratio of its largest to its smallest value is at least this number."""


def element(tag: str, content: str = "", **attributes: object) -> str:
    """Return an SVG element as a string. Attribute values are escaped. `content` must be markup and is not escaped.

    In the names of attributes, trailing `_` are removed and all other `_` become `-`. Attributes with an empty value
    are left out.
    """
    attributes_text = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"' for name, value in attributes.items() if value != ""
    )
    return f"<{tag}{attributes_text}>{content}</{tag}>"


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else escape(str(value), quote=True)


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> str:
    """Return an SVG text element at the position (`x`, `y`). `content` is escaped."""
    return element("text", escape(content), x=x, y=y, class_=class_, text_anchor=anchor)


def tooltip(content: str) -> str:
    """Return an SVG title element, which must be put inside the element that it describes. `content` is escaped."""
    return element("title", escape(content))


def path(points: Sequence[tuple[float, float]], class_: str) -> str:
    """Return a path element that connects points by straight lines."""
    steps = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("path", d=f"M{steps}", class_=class_)


def drawing(width: float, height: float, label: str, class_: str, content: str, role: str = "img") -> Markup:
    """Return an SVG element that scales to the available width. `label` is a description for screen readers.

    If parts of the content can get the keyboard focus, `role` must be `group`.
    """
    xmlns, box = "http://www.w3.org/2000/svg", f"0 0 {width:g} {height:g}"
    return Markup(element("svg", content, xmlns=xmlns, viewBox=box, role=role, aria_label=label, class_=class_))


def picture(width: float, height: float, label: str, content: str) -> str:
    """Return the text of an SVG file that shows `content` on a background, in fixed colours."""
    ground = element("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=10, class_="ground")
    return drawing(width, height, label, "picture", standalone_style() + ground + content) + "\n"


def legend_mark(content: str) -> Markup:
    """Return an SVG symbol for a legend in the HTML report. `content` is its markup, in an area of 16 by 16 units."""
    return Markup(element("svg", content, viewBox="0 0 16 16", aria_hidden="true", class_="chart key"))


@dataclass(frozen=True)
class AxisScale:
    """A mapping from values to coordinates: `low` is drawn at `start`, and `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, logarithmic: bool | None = None) -> AxisScale:
        """Return a scale that covers all values with a margin.

        If `logarithmic` is None, the scale is logarithmic if all values are positive and the largest is at least
        `_LOGARITHMIC_RATIO` times the smallest.
        """
        low, high = min(values), max(values)
        if logarithmic is None:
            logarithmic = low > 0 and high / low >= _LOGARITHMIC_RATIO
        if logarithmic:
            margin = (high / low) ** 0.05
            return cls(low / margin, high * margin, start, end, True)
        margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
        return cls(low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        share = self._position(value) - self._position(self.low)
        return self.start + share / (self._position(self.high) - self._position(self.low)) * (self.end - self.start)

    def _position(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value

    def ticks(self) -> list[float]:
        """Return the round numbers at which ticks are drawn, in ascending order."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [round(digit * 10.0**power, 12) for power in decades for digit in (1, 2, 5)]
            return [value for value in values if self.low <= value <= self.high]
        raw_step = (self.high - self.low) / _TICKS
        unit = 10.0 ** math.floor(math.log10(raw_step))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw_step)
        first = math.ceil(self.low / step)
        return [round(number * step, 12) for number in range(first, math.floor(self.high / step) + 1)]


def frame(x: AxisScale, y: AxisScale, x_label: str, y_label: str) -> str:
    """Return the grid, the ticks and the labels of both axes.

    The label of the vertical axis is written horizontally above that axis.
    """
    parts = []
    for number, value in enumerate(y.ticks()):
        parts.append(element("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(x.start - 8, y(value) + 4, f"{value:g}", _every_other(number), "end"))
    for number, value in enumerate(x.ticks()):
        parts.append(element("line", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 5, class_="axis"))
        parts.append(text(x(value), y.start + 20, f"{value:g}", _every_other(number), "middle"))
    parts.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(text(x.end, y.start + 42, x_label, "label", "end"))
    parts.append(text(x.start - 56, 14, y_label, "label"))
    return element("g", "".join(parts), class_="frame")


def _every_other(number: int) -> str:
    """Return the CSS classes of the tick at index `number`. Phones hide the text of `spare` ticks, every second one."""
    return "tick spare" if number % 2 else "tick"
