"""Progress of long-running work, the log of a run, and listeners to its events.

`track` shows progress: on a terminal as a live bar, otherwise as one line every 30 seconds. `say` prints a line for the
user. `log` records an event in the run's `log.jsonl`. All of them also pass events to the listeners that `notifying`
has registered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Protocol, TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)
_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_VIEWS = 1.0
_logs: list[IO[bytes]] = []
Event = Mapping[str, Any]
"""An event of a run. The value of the key `event` is its name. All other keys are details (see `Run.listen`)."""
Listener = Callable[[Event], object]
_listeners: list[Listener] = []


class Tracker(Protocol):
    """A function that reports progress. It takes the amount of work done so far and an optional note."""

    def __call__(self, done: int, note: str = "") -> None: ...


class _ProgressWithView(Progress):
    below: RenderableType = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self.below


@contextmanager
def track(
    title: str, total: int, before: int = 0, view: Callable[[], RenderableType] = lambda: ""
) -> Iterator[Tracker]:
    """Show progress on standard error while the `with` block runs, and report it to listeners.

    The block must call the yielded `Tracker` with the amount of work done, which rises from `before` to `total`. On a
    terminal, the result of `view` is shown below the bar. `view` is called at most once per second, and at the end.
    """
    with _show_progress(title, total, before, view) as show:

        def tracker(done: int, note: str = "") -> None:
            show(done, note)
            tell("progress", title=title, done=done, total=total, note=note)

        yield tracker


@contextmanager
def _show_progress(title: str, total: int, before: int, view: Callable[[], RenderableType]) -> Iterator[Tracker]:
    started = last = time.monotonic()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with _ProgressWithView(
            *columns, TextColumn("{task.fields[note]}"), console=console, refresh_per_second=2
        ) as bar:
            task = bar.add_task(title, total=total, completed=before, note="")

            def show(done: int, note: str = "") -> None:
                nonlocal last
                bar.update(task, completed=done, note=note)
                now = time.monotonic()
                if done >= total or now - last >= _SECONDS_BETWEEN_VIEWS:
                    bar.below, last = view(), now

            yield show
        return

    def line(done: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done > before and now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            left = (now - started) / (done - before) * (total - done)
            say(f"{title}: {done}/{total} {note} ({left:.0f} s left)".replace("  ", " "))

    yield line


def tracked(items: Collection[T], title: str) -> Iterator[T]:
    """Yield the items, and show how many of them have been processed."""
    with track(title, len(items)) as progress:
        for done, item in enumerate(items, start=1):
            yield item
            progress(done)


@contextmanager
def busy(message: str) -> Iterator[None]:
    """Show a message on a terminal while the `with` block runs. Use it for work of unknown duration."""
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        yield


def say(message: str) -> None:
    """Print one line for the user on standard error and record it in the run's log."""
    console.print(message, highlight=False, markup=False, emoji=False, soft_wrap=True)
    log("said", message=message)


def log(event: str, **details: object) -> None:
    """Append an event with the current time to the run's log, if there is one, and pass the event to all listeners."""
    if _logs:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        _logs[-1].write(json.dumps({"at": now, "event": event, **details}).encode() + b"\n")
    tell(event, **details)


def tell(event: str, **details: object) -> None:
    """Pass an event to all registered listeners."""
    for listener in tuple(_listeners):
        listener({"event": event, **details})


@contextmanager
def notifying(listeners: Iterable[Listener]) -> Iterator[None]:
    """Register listeners while the `with` block runs. A listener that is already registered is not added again."""
    added = [listener for listener in listeners if listener not in _listeners]
    _listeners.extend(added)
    try:
        yield
    finally:
        for listener in added:
            _listeners.remove(listener)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Append the messages of `say` and the events of `log` to a file while the `with` block runs.

    Each line of the file is a JSON object and is written immediately. If a crash has left an incomplete last line, the
    next event still starts on a new line.
    """
    with path.open("a+b", buffering=0) as stream:
        if stream.tell():
            stream.seek(-1, 2)
            if stream.read() != b"\n":
                stream.write(b"\n")
        _logs.append(stream)
        try:
            yield
        finally:
            _logs.remove(stream)


class Stopwatch(dict[str, float]):
    """A dictionary of the seconds spent so far on each part of the work, keyed by the name of the part.

    `before` holds the seconds per part that earlier processes spent. `left` is the number of seconds still allowed.
    """

    def __init__(self, before: Mapping[str, float] = MappingProxyType({}), left: float = float("inf")) -> None:
        super().__init__(before)
        self._last = time.monotonic()
        self._end = self._last + left

    @property
    def left(self) -> float:
        """The number of allowed seconds that remain. It is negative once the allowed time is over."""
        return self._end - time.monotonic()

    def end(self, part: str) -> None:
        """Add the time since the last call of `end`, or since the start, to the seconds of `part`."""
        now = time.monotonic()
        self[part] = self.get(part, 0.0) + now - self._last
        self._last = now
