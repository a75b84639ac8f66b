"""Progress of long work: a live view on a terminal, a line now and then elsewhere, the log of a run, and callbacks."""

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
"""What happened: its name as `event`, and what there is to say of it. See `Run.listen`."""
Listener = Callable[[Event], object]
_listeners: list[Listener] = []


class Tracker(Protocol):
    """Told how much is done."""

    def __call__(self, done: int, note: str = "") -> None: ...


class _View(Progress):
    """A bar with something below it."""

    below: RenderableType = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self.below


@contextmanager
def track(
    title: str, total: int, before: int = 0, view: Callable[[], RenderableType] = lambda: ""
) -> Iterator[Tracker]:
    """Show progress from `before` towards `total` on standard error while the block runs, and tell it to listeners.

    `view` is what a terminal shows below the bar; it is asked for once a second at most.
    """
    with _shown(title, total, before, view) as show:

        def tracker(done: int, note: str = "") -> None:
            show(done, note)
            tell("progress", title=title, done=done, total=total, note=note)

        yield tracker


@contextmanager
def _shown(title: str, total: int, before: int, view: Callable[[], RenderableType]) -> Iterator[Tracker]:
    started = last = time.monotonic()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with _View(*columns, TextColumn("{task.fields[note]}"), console=console, refresh_per_second=2) as bar:
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
    """The items one by one, with progress shown."""
    with track(title, len(items)) as progress:
        for done, item in enumerate(items, start=1):
            yield item
            progress(done)


@contextmanager
def busy(message: str) -> Iterator[None]:
    """Show on a terminal what is done while nobody knows how long it takes."""
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        yield


def say(message: str) -> None:
    """One line for the person who waits, on standard error and in the run's log."""
    console.print(message, highlight=False, markup=False, soft_wrap=True)
    log("said", message=message)


def log(event: str, **about: object) -> None:
    """Append an event with its time to the run's log, if there is one, and tell it to listeners."""
    if _logs:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        _logs[-1].write(json.dumps({"at": now, "event": event, **about}).encode() + b"\n")
    tell(event, **about)


def tell(event: str, **about: object) -> None:
    """Tell an event to those who listen."""
    for listener in tuple(_listeners):
        listener({"event": event, **about})


@contextmanager
def heard_by(listeners: Iterable[Listener]) -> Iterator[None]:
    """Have some listeners told what happens while the block runs, each once for each event."""
    added = [listener for listener in listeners if listener not in _listeners]
    _listeners.extend(added)
    try:
        yield
    finally:
        for listener in added:
            _listeners.remove(listener)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Append what is said and logged while the block runs to a file, one JSON object a line.

    Each line is one write, there at once; should a crash have torn the last one, the next begins on a line of its own.
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


class Laps(dict[str, float]):
    """Seconds by what they were spent on: each lap ends what went on since the one before."""

    def __init__(self, before: Mapping[str, float] = MappingProxyType({}), left: float = float("inf")) -> None:
        super().__init__(before)
        self._last = time.monotonic()
        self._end = self._last + left

    @property
    def left(self) -> float:
        """The seconds until the time is over that was `left` at the beginning."""
        return self._end - time.monotonic()

    def end(self, part: str) -> None:
        """Count the time since the last lap, or since the beginning, to a part."""
        now = time.monotonic()
        self[part] = self.get(part, 0.0) + now - self._last
        self._last = now
