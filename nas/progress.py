"""Progress of long work: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)
_SECONDS_BETWEEN_LINES = 30.0


class Tracker(Protocol):
    """Told how much is done."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def track(title: str, total: int) -> Iterator[Tracker]:
    """Show progress towards `total` on standard error while the block runs."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=note)
        return
    started = last = time.monotonic()

    def line(done: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done and now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            left = (now - started) / done * (total - done)
            print(f"{title}: {done}/{total} {note} ({left:.0f} s left)".replace("  ", " "), file=sys.stderr)

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
    """One line for the person who waits, on standard error."""
    console.print(message, highlight=False, markup=False, soft_wrap=True)
