"""The front of a search while it grows, for a notebook: a listener of a run that draws what it has heard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.report.style import standalone_style
from nas.report.svg import Scale, drawing, element, frame, path, text, tooltip

_WIDTH, _HEIGHT = 640.0, 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 620.0, 40.0, 320.0
_SECONDS_BETWEEN_PICTURES = 1.0


@dataclass(frozen=True)
class Candidate:
    """What was heard of a candidate."""

    architecture: str
    """Its description."""
    accuracy: float
    """The task's metric on the search set, with inherited weights."""
    predicted_ms: Mapping[str, float]
    """By device."""
    complete: bool
    """Whether all examples were evaluated; otherwise the accuracy is an estimate."""


class GrowingFront:
    """Candidates of a search as they are evaluated: `run.listen(GrowingFront())`.

    A notebook shows it as a picture; `show` shows one that is drawn anew while the search goes on.
    """

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self._display: Any = None
        self._drawn = 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Hear an event of a run."""
        if event["event"] == "evaluated":
            self.candidates.append(
                Candidate(event["architecture"], event["accuracy"], event["predicted_ms"], event["complete"])
            )
        is_end = event["event"] == "searched"
        if self._display and (is_end or time.monotonic() - self._drawn >= _SECONDS_BETWEEN_PICTURES):
            self._display.update(self)
            self._drawn = time.monotonic()

    def show(self) -> GrowingFront:
        """Show a picture in the cell of a notebook, and draw it anew, once a second at most, as candidates come in.

        Elsewhere than in a notebook nothing is shown.
        """
        try:
            from IPython.display import display
        except ImportError:
            return self
        self._display = display(self, display_id=True)
        return self

    def front(self, device: str | None = None) -> list[Candidate]:
        """The candidates that no other beats in accuracy and latency on a device, by default the first one.

        Most accurate first. Those whose evaluation was ended early are left out.
        """
        found: list[Candidate] = []
        whole = [candidate for candidate in self.candidates if candidate.complete]
        for candidate in sorted(whole, key=lambda one: (-one.accuracy, self._ms(one, device))):
            if not found or self._ms(candidate, device) < self._ms(found[-1], device):
                found.append(candidate)
        return found

    def _ms(self, candidate: Candidate, device: str | None) -> float:
        return candidate.predicted_ms[device or next(iter(candidate.predicted_ms))]

    def _repr_svg_(self) -> str:
        """The picture for a notebook."""
        if not self.candidates:
            return drawing(
                _WIDTH, 60.0, "No candidate yet", "chart", standalone_style() + text(10, 34, "no candidate yet")
            )
        device = next(iter(self.candidates[0].predicted_ms))
        front = self.front()
        x = Scale.around([self._ms(one, None) for one in self.candidates], _LEFT, _RIGHT)
        y = Scale.around([one.accuracy for one in self.candidates], _BOTTOM, _TOP, logarithmic=False)
        best = [(x(self._ms(one, None)), y(one.accuracy)) for one in reversed(front)]
        dots = "".join(self._dot(one, x, y, one in front) for one in self.candidates)
        label = f"predicted p50 ms, {device}{' (logarithmic)' if x.logarithmic else ''}"
        title = f"score on the search set; {len(self.candidates)} candidates, {len(front)} on the front"
        line = path(best, "front") if len(best) > 1 else ""
        content = standalone_style() + frame(x, y, label, title) + line + dots
        return drawing(_WIDTH, _HEIGHT, "The front of the search so far", "chart", content)

    def _dot(self, one: Candidate, x: Scale, y: Scale, is_best: bool) -> str:
        kind = "candidate best" if is_best else "candidate" if one.complete else "candidate raced"
        tip = tooltip(f"{one.architecture}\n{one.accuracy:.4f} at {self._ms(one, None):.3f} ms")
        return element("circle", tip, cx=x(self._ms(one, None)), cy=y(one.accuracy), r=4.5, class_=kind)
