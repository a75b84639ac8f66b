"""A chart for notebooks that grows while a search runs.

Pass a `GrowingFront` to `Run.listen`. It collects the candidates from the events of the run and draws them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import counted
from nas.report.style import standalone_style
from nas.report.svg import AxisScale, drawing, element, frame, path, text, tooltip

_WIDTH, _HEIGHT = 640.0, 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 620.0, 40.0, 320.0
_SECONDS_BETWEEN_PICTURES = 1.0


@dataclass(frozen=True)
class Candidate:
    """A candidate that the search has evaluated, as reported by an event of the run."""

    architecture: str
    """A description of the architecture, as returned by `Architecture.describe`."""
    accuracy: float
    """The task's metric on the search set, with the supernet's weights."""
    predicted_ms: Mapping[str, float]
    """Predicted median latency in ms, keyed by device name."""
    complete: bool
    """Whether the candidate was evaluated on all examples. If not, `accuracy` is an estimate."""


class GrowingFront:
    """A listener that collects the candidates of a search. Register it with `run.listen(GrowingFront())`.

    Notebooks display an instance as a chart. `show` displays a chart that is updated while the search runs.
    """

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self._display: Any = None
        self._drawn = 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Record an event of the run.

        The chart that `show` displays is updated at most once a second, and at the end of the search.
        """
        if event["event"] == "evaluated":
            self.candidates.append(
                Candidate(event["architecture"], event["accuracy"], event["predicted_ms"], event["complete"])
            )
        is_end = event["event"] == "searched"
        if self._display and (is_end or time.monotonic() - self._drawn >= _SECONDS_BETWEEN_PICTURES):
            self._display.update(self)
            self._drawn = time.monotonic()

    def show(self) -> GrowingFront:
        """Display the chart in a notebook cell. While the search runs, the chart is updated at most once a second.

        Without IPython, nothing is displayed. Returns this instance, so that `run.listen(GrowingFront().show())` works.
        """
        try:
            from IPython.display import display
        except ImportError:
            return self
        self._display = display(self, display_id=True)
        return self

    def front(self, device: str | None = None) -> list[Candidate]:
        """Return the Pareto front of accuracy and predicted latency on `device`, most accurate candidate first.

        `device` defaults to the first device in `predicted_ms`. Candidates whose evaluation was stopped early are left
        out.
        """
        members: list[Candidate] = []
        complete = [candidate for candidate in self.candidates if candidate.complete]
        for candidate in sorted(complete, key=lambda item: (-item.accuracy, self._ms(item, device))):
            if not members or self._ms(candidate, device) < self._ms(members[-1], device):
                members.append(candidate)
        return members

    def _ms(self, candidate: Candidate, device: str | None) -> float:
        return candidate.predicted_ms[device or next(iter(candidate.predicted_ms))]

    def _repr_svg_(self) -> str:
        """Return the chart as SVG. Notebooks call this method to display the instance."""
        if not self.candidates:
            return drawing(
                _WIDTH, 60.0, "No candidate yet", "chart", standalone_style() + text(10, 34, "no candidate yet")
            )
        device = next(iter(self.candidates[0].predicted_ms))
        front = self.front()
        x = AxisScale.around([self._ms(candidate, None) for candidate in self.candidates], _LEFT, _RIGHT)
        y = AxisScale.around([candidate.accuracy for candidate in self.candidates], _BOTTOM, _TOP, logarithmic=False)
        points = [(x(self._ms(candidate, None)), y(candidate.accuracy)) for candidate in reversed(front)]
        dots = "".join(self._dot(candidate, x, y, candidate in front) for candidate in self.candidates)
        label = f"predicted p50 ms, {device}{' (logarithmic)' if x.logarithmic else ''}"
        title = f"score on the search set; {counted(len(self.candidates), 'candidate')}, {len(front)} on the front"
        line = path(points, "front") if len(points) > 1 else ""
        content = standalone_style() + frame(x, y, label, title) + line + dots
        return drawing(_WIDTH, _HEIGHT, "Pareto front of the search so far", "chart", content)

    def _dot(self, candidate: Candidate, x: AxisScale, y: AxisScale, is_best: bool) -> str:
        kind = "candidate best" if is_best else "candidate" if candidate.complete else "candidate raced"
        tip = tooltip(f"{candidate.architecture}\n{candidate.accuracy:.4f} at {self._ms(candidate, None):.3f} ms")
        return element("circle", tip, cx=x(self._ms(candidate, None)), cy=y(candidate.accuracy), r=4.5, class_=kind)
