"""Progress is shown on a terminal, printed as lines elsewhere, and written to a log that survives a kill."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
import time

import pytest
from rich.console import Console

from nas import progress
from nas.progress import Stopwatch, log, logged, notifying, say, tell, track


def _events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def clock(monkeypatch):
    """The clock advances by ten seconds whenever it is read."""
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))


def test_the_log_is_appended_to_and_contains_messages_and_events(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    log("lost")
    for number in range(2):
        with logged(path):
            say(f"hello {number}")
            log("counted", number=number)
    say("outside")
    events = _events(path)
    assert [event["event"] for event in events] == ["said", "counted"] * 2
    assert [event.get("message", event.get("number")) for event in events] == ["hello 0", 0, "hello 1", 1]
    assert capsys.readouterr().err.splitlines() == ["hello 0", "hello 1", "outside"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)


def test_messages_are_printed_literally(capsys):
    say("rows.csv:x: no [bold]column[/bold]")
    assert capsys.readouterr().err == "rows.csv:x: no [bold]column[/bold]\n"


def test_an_incomplete_last_line_does_not_damage_the_next_one(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "whole"}\n{"event": "to')
    with logged(path):
        log("next")
    whole, incomplete, following = path.read_text().splitlines()
    assert json.loads(whole) and json.loads(following)["event"] == "next" and incomplete == '{"event": "to'


def test_a_killed_process_leaves_complete_lines_before_the_last(tmp_path):
    path = tmp_path / "log.jsonl"
    code = f"""
import pathlib
from nas.progress import log, logged
with logged(pathlib.Path({str(path)!r})):
    print("ready", flush=True)
    while True:
        log("event", text="x" * 500)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    while not path.exists() or path.stat().st_size < 100_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    *whole, _ = path.read_bytes().split(b"\n")  # the last one may be incomplete
    assert len([json.loads(line) for line in whole]) >= 100


def test_without_a_terminal_a_line_is_printed_every_30_seconds(clock, capsys):
    with track("Work", 12, before=2, view=lambda: pytest.fail("without a terminal, there is no view")) as tracker:
        for done in range(3, 9):
            tracker(done, f"note {done}")
    # A unit takes ten seconds; seven or four of them are left.
    assert capsys.readouterr().err.splitlines() == ["Work: 5/12 note 5 (70 s left)", "Work: 8/12 note 8 (40 s left)"]


def test_a_terminal_shows_the_view_below_the_bar(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=100))
    with track("Work", 3, view=lambda: "the best so far") as tracker:
        tracker(3, "a note")
    shown = screen.getvalue()
    assert all(part in shown for part in ("Work", "3/3", "a note", "the best so far"))


def test_the_times_of_a_part_add_up(clock):
    stopwatch = Stopwatch({"driver": 5.0})
    for part in ("start", "driver", "evaluation", "driver"):
        stopwatch.end(part)
    assert stopwatch == {"start": 10.0, "driver": 25.0, "evaluation": 10.0}


@pytest.fixture
def shown(monkeypatch, request):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, force_terminal=request.param, width=100))
    return stream


@pytest.mark.parametrize("shown", [True], indirect=True)
def test_a_terminal_shows_what_is_done_and_how_far_it_is(shown):
    assert list(progress.tracked("abc", "Counting")) == ["a", "b", "c"]
    with progress.busy("Looking"):
        progress.say("a line between")
    assert all(words in shown.getvalue() for words in ("Counting", "3/3", "Looking", "a line between"))


@pytest.mark.parametrize("shown", [False], indirect=True)
def test_without_a_terminal_nothing_is_printed_in_the_first_seconds(shown, capsys):
    assert list(progress.tracked([1, 2], "Counting")) == [1, 2]
    with progress.busy("Looking"):
        pass
    assert shown.getvalue() == capsys.readouterr().err == ""


def test_listeners_receive_each_event_once_even_without_a_log():
    first, second = [], []
    tell("lost")
    with notifying([first.append]), notifying([first.append, second.append]):
        say("hello")
        with track("Work", 4, before=1) as tracker:
            tracker(2, "a note")
        log("counted", number=3)
    tell("lost")
    assert first == second
    assert first == [
        {"event": "said", "message": "hello"},
        {"event": "progress", "title": "Work", "done": 2, "total": 4, "note": "a note"},
        {"event": "counted", "number": 3},
    ]
