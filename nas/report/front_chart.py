"""The chart of accuracy against latency on one device: candidates, Pareto front, exports, budgets and teacher.

`front_chart` returns the chart for the report, and `legend` returns the legend, which the report shows below all
charts. `front_picture` returns the content of an SVG file that contains the chart and the legend.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from nas.architecture import Architecture
from nas.budget import Budget
from nas.report.architecture_drawing import in_words
from nas.report.contents import Contents, Record, on_device
from nas.report.numbers import milliseconds, score, times
from nas.report.svg import AxisScale, drawing, element, frame, legend_mark, path, picture, text, tooltip

WIDTH, HEIGHT = 720.0, 449.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 700.0, 91.0, 395.0
_LEGEND_HEIGHT = 92.0
_MARGIN = 14.0
"""The margin around the chart in an SVG file."""
_LABEL_ROWS = 3
"""The number of text lines above the chart. They contain the names of the budgets and the teacher."""
_DEPTH_BELOW_BEST = 4.0
"""How far the vertical axis extends below the best score, in multiples of the distance from best to median score."""
_LABEL_WIDTH = 10.5
"""The width of one character of a budget's name, in SVG units, at the font size for phones."""
_LEGEND = (
    ('<circle cx="8" cy="8" r="4" class="candidate"/>', "candidate of the search"),
    ('<circle cx="8" cy="8" r="3.5" class="candidate raced"/>', "stopped early, score estimated"),
    ('<circle cx="8" cy="8" r="4.5" class="candidate best"/>', "on the Pareto front"),
    ('<circle cx="8" cy="8" r="6.5" class="ring"/>', "measured on the device"),
    ('<path d="M8,1.5 L14.5,8 L8,14.5 L1.5,8 Z" class="export"/>', "exported, at its measured latency"),
    ('<rect x="3" y="3" width="10" height="10" class="uniform"/>', "best uniform network for a budget"),
    ('<path d="M8,1 V15" class="budget"/>', "budget"),
    ('<g><path d="M8,1 V15" class="teacher"/><circle cx="8" cy="8" r="4" class="teacher-dot"/></g>', "teacher"),
)


def front_chart(contents: Contents, device: str) -> Markup:
    """Return the chart of one device as an SVG element. The style sheet of the HTML report colours it."""
    content = _FrontChart(contents, device).draw()
    return drawing(WIDTH, HEIGHT, f"Pareto front on {device}", "chart wide", content, role="group")


def front_picture(contents: Contents, device: str) -> str:
    """Return the content of an SVG file with the chart of one device, a background and the legend, in fixed colours."""
    width, height = WIDTH + 2 * _MARGIN, HEIGHT + _LEGEND_HEIGHT + 2 * _MARGIN
    chart = element(
        "g",
        _FrontChart(contents, device).draw() + _legend_in_picture(),
        class_="chart",
        transform=f"translate({_MARGIN:g} {_MARGIN:g})",
    )
    return picture(width, height, f"{contents.study}: Pareto front on {device}", chart)


def legend() -> list[tuple[Markup, str]]:
    """Return the legend below the charts as pairs (SVG symbol, description)."""
    return [(legend_mark(mark), name) for mark, name in _LEGEND]


def _legend_in_picture() -> str:
    parts = []
    for number, (mark, name) in enumerate(_LEGEND):
        x, y = 10 + 240 * (number % 3), HEIGHT + 8 + 28 * (number // 3)
        parts.append(element("g", mark + text(22, 12, name, "label"), transform=f"translate({x:g} {y:g})"))
    return "".join(parts)


@dataclass(frozen=True)
class _FrontChart:
    """The chart of one device. `x`, `y` and `draw` need at least one candidate in `contents.front`."""

    contents: Contents
    device: str

    @cached_property
    def front(self) -> Record:
        return self.contents.front or {"candidates": [], "front": [], "budgets": {}}

    @cached_property
    def budgets(self) -> list[Budget]:
        return [budget for budget in self.contents.budgets if budget.on(self.device)]

    @cached_property
    def teacher_p50_ms(self) -> float | None:
        return self.contents.teacher_p50_ms(self.device)

    @cached_property
    def exports(self) -> dict[str, Record]:
        return self.contents.exports_on(self.device)

    @cached_property
    def uniform(self) -> dict[str, Record]:
        return self.contents.uniform_on(self.device)

    @cached_property
    def teacher_accuracy(self) -> float | None:
        """The teacher's score on the search set, or None if it was not recorded."""
        return self.front.get("teacher_search_accuracy")

    @cached_property
    def measured(self) -> dict[str, Record]:
        """The candidates that were measured end to end on the device, keyed by digest."""
        candidates_by_budget = self.front["budgets"]
        all_measured = (
            {**item, **on_device(item, self.device)}
            for budget in self.budgets
            for item in candidates_by_budget.get(budget.name, ())
        )
        return {item["digest"]: item for item in all_measured if item.get("measured", True)}

    @cached_property
    def limits(self) -> list[tuple[str, float]]:
        """Pairs (name, limit in ms) of the budgets that limit the median latency, sorted by limit."""
        teacher, limits_ms = self.teacher_p50_ms, list[tuple[str, float]]()
        for budget in self.budgets:
            device_limits = budget.on(self.device)
            limit = device_limits.p50_ms if device_limits else None
            if budget.has_floor and limit == "100%":
                continue  # this line would coincide with the teacher's
            if device_limits and limit is not None and (teacher is not None or not isinstance(limit, str)):
                limits_ms.append((budget.name, device_limits.value("p50_ms", {"p50_ms": teacher or 0.0})))
        return sorted(limits_ms, key=lambda item: item[1])

    @cached_property
    def floors(self) -> list[tuple[str, float]]:
        """Pairs (name, minimum accuracy) of the budgets that require a minimum accuracy."""
        floors_by_budget = self.front.get("floors", {})
        return [
            (budget.name, floors_by_budget[budget.name]["least"])
            for budget in self.budgets
            if budget.name in floors_by_budget
        ]

    @cached_property
    def x(self) -> AxisScale:
        values = [self._predicted(item) for item in self.front["candidates"]]
        values += [network["p50_ms"] for network in (*self.exports.values(), *self.uniform.values())]
        values += [limit for _, limit in self.limits]
        if self.teacher_p50_ms is not None:
            values.append(self.teacher_p50_ms)
        return AxisScale.around(values, _LEFT, _RIGHT)

    @cached_property
    def y(self) -> AxisScale:
        """The vertical scale. Very low scores are not covered, because they would compress the rest of the chart."""
        scores = sorted(item["search_accuracy"] for item in self.front["candidates"])
        best, median = scores[-1], scores[len(scores) // 2]
        floor = best - _DEPTH_BELOW_BEST * (best - median) if median < best else scores[0]
        values = [value for value in scores if value >= floor]
        other_scores = [network["search_accuracy"] for network in (*self.exports.values(), *self.uniform.values())]
        other_scores += [] if self.teacher_accuracy is None else [self.teacher_accuracy]
        other_scores += [least for _, least in self.floors]
        values += [value for value in other_scores if value >= floor]
        return AxisScale.around(values, _BOTTOM, _TOP, logarithmic=False)

    def draw(self) -> str:
        """Return all parts of the chart as SVG. Later parts are drawn over earlier ones, so exports come last."""
        best = {item["digest"] for item in self.front["front"]}
        candidates = self.front["candidates"]
        ordered = sorted(candidates, key=lambda item: (item["digest"] in best, "stopped_after" not in item))
        parts = [self._frame(), self._limits(), self._floors(), self._staircase()]
        parts += [self._candidate(item, item["digest"] in best) for item in ordered]
        parts += [self._ring(item) for item in self.measured.values()]
        parts += [self._uniform(name, network) for name, network in self.uniform.items()]
        parts += [self._export(name, network) for name, network in self.exports.items()]
        return "".join(parts)

    def _frame(self) -> str:
        kind = ", logarithmic" if self.x.logarithmic else ""
        return frame(
            self.x, self.y, f"p50 latency on {self.device}, ms{kind}", f"{self.contents.metric} on the search set"
        )

    def _predicted(self, item: Record) -> float:
        return float(item["predicted_ms"][self.device])

    def _y_of(self, accuracy: float) -> float:
        """Return the vertical coordinate of a score. Lower scores than the axis shows are drawn at its lower end."""
        return self.y(max(accuracy, self.y.low))

    def _place(self, item: Record) -> tuple[float, float]:
        return self.x(self._predicted(item)), self._y_of(item["search_accuracy"])

    def _staircase(self) -> str:
        """Draw the Pareto front as a line that shows the best score up to each latency."""
        points: list[tuple[float, float]] = []
        reached = self.y.low
        for item in sorted(self.front["front"], key=self._predicted):
            if item["search_accuracy"] > reached:
                x = self.x(self._predicted(item))
                points += [(x, self.y(reached)), (x, self.y(item["search_accuracy"]))]
                reached = item["search_accuracy"]
        return path([*points, (self.x.end, self.y(reached))], "front") if points else ""

    def _candidate(self, item: Record, is_best: bool) -> str:
        x, y = self._place(item)
        stopped_early = "stopped_after" in item
        estimate = f", estimated after {item['stopped_after']:,} texts" if stopped_early else ""
        lines = [
            _name_of(item),
            f"{self.contents.metric} {score(item['search_accuracy'])}{estimate}",
            f"predicted {milliseconds(self._predicted(item))}",
            f"{item['size_mb']:.2f} MB, {item['params']:,} parameters",
            *in_words(Architecture.from_json(item["architecture"])),
        ]
        if item["digest"] in self.measured:
            lines.insert(3, f"measured {milliseconds(self.measured[item['digest']]['p50_ms'])}")
        class_ = "candidate best" if is_best else "candidate raced" if stopped_early else "candidate"
        tooltip_element = tooltip("\n".join(lines))
        if item["search_accuracy"] < self.y.low:
            shape = f"M{x - 5:.1f},{y - 8:.1f} h10 l-5,8 Z"
            return element("path", tooltip_element, d=shape, class_=f"{class_} below")
        return element(
            "circle", tooltip_element, cx=x, cy=y, r=4.5 if is_best else 3.0 if stopped_early else 3.5, class_=class_
        )

    def _ring(self, item: Record) -> str:
        x, y = self._place(item)
        return element("circle", cx=x, cy=y, r=7.0, class_="ring")

    def _uniform(self, name: str, network: Record) -> str:
        """Draw a square for the best uniform network of the budget `name`."""
        x, y = self.x(network["p50_ms"]), self._y_of(network["search_accuracy"])
        lines = [
            f"best uniform network for {name}",
            f"{self.contents.metric} {score(network['search_accuracy'])}",
            f"{'measured' if network['measured'] else 'predicted'} {milliseconds(network['p50_ms'])}",
            *in_words(Architecture.from_json(network["architecture"])),
        ]
        tip = tooltip("\n".join(lines))
        return element("rect", tip, x=x - 5, y=y - 5, width=10, height=10, class_="uniform", tabindex=0)

    def _export(self, name: str, export: Record) -> str:
        """Draw a diamond for an export, and a line from its predicted latency and its score before final training."""
        x, y = self.x(export["p50_ms"]), self._y_of(export["search_accuracy"])
        start_y = self._y_of(export["search_accuracy_inherited"])
        line = element("line", x1=self.x(export["predicted_ms"][self.device]), y1=start_y, x2=x, y2=y, class_="moved")
        lines = [
            f"exported as {name}",
            f"{self.contents.metric} {score(export['search_accuracy'])} (search set)",
            f"{self.contents.metric} {score(export['accuracy'], export['accuracy_standard_error'])} (test set)",
            f"measured {milliseconds(export['p50_ms'])}, {times(export['speed_up'])} as fast as the teacher",
            *in_words(Architecture.from_json(export["architecture"])),
        ]
        shape = f"M{x:.1f},{y - 8:.1f} l8,8 l-8,8 l-8,-8 Z"
        return line + element("path", tooltip("\n".join(lines)), d=shape, class_="export", tabindex=0)

    def _limits(self) -> str:
        """Draw vertical lines for the budgets and the teacher, and a dot for the teacher.

        Names that would overlap are written on different lines of text.
        """
        marks = [(self.x(limit), name, milliseconds(limit), "budget") for name, limit in self.limits]
        if self.teacher_p50_ms is not None:
            line_x = self.x(self.teacher_p50_ms)
            marks.append((line_x, "teacher", milliseconds(self.teacher_p50_ms), "teacher"))
        parts, free_from = [], [0.0] * _LABEL_ROWS
        for line_x, name, latency, class_ in sorted(marks):
            half = _LABEL_WIDTH * len(name) / 2
            left = min(max(line_x - half, 0.0), WIDTH - 2 * half)
            row = next((number for number in range(_LABEL_ROWS) if free_from[number] <= left), _LABEL_ROWS - 1)
            free_from[row] = left + 2 * half + _LABEL_WIDTH
            label_y = _TOP - 10 - 19 * row
            tip = tooltip(f"{name}: {latency}")
            parts.append(element("line", tip, x1=line_x, x2=line_x, y1=label_y + 4, y2=_BOTTOM, class_=class_))
            parts.append(text(left + half, label_y, name, f"{class_}-name", "middle"))
        if self.teacher_p50_ms is not None and self.teacher_accuracy is not None:
            tip = tooltip(f"teacher\n{self.contents.metric} {score(self.teacher_accuracy)}")
            x, y = self.x(self.teacher_p50_ms), self._y_of(self.teacher_accuracy)
            parts.append(element("circle", tip, cx=x, cy=y, r=5, class_="teacher-dot", tabindex=0))
        return "".join(parts)

    def _floors(self) -> str:
        """Draw a horizontal line for each minimum accuracy, with the name of the budget at the right end."""
        parts = []
        for name, least in self.floors:
            y = self._y_of(least)
            tip = tooltip(f"{name}: {self.contents.metric} {score(least)}")
            parts.append(element("line", tip, x1=_LEFT, x2=_RIGHT, y1=y, y2=y, class_="budget"))
            parts.append(text(_RIGHT - 4, y - 5, name, "budget-name", "end"))
        return "".join(parts)


def _name_of(item: Record) -> str:
    """Return the trial number of a candidate, if known, and the start of its digest.

    `nas export --trial` accepts both.
    """
    trial = f"trial {item['trial']}, " if "trial" in item else ""
    return f"{trial}digest {item['digest'][:8]}"
