"""Progress: shown on a terminal, and quiet in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas import progress


@pytest.fixture
def shown(monkeypatch, request):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, force_terminal=request.param, width=100))
    return stream


@pytest.mark.parametrize("shown", [True], indirect=True)
def test_a_terminal_sees_what_is_done_and_how_far(shown):
    assert list(progress.tracked("abc", "Counting")) == ["a", "b", "c"]
    with progress.busy("Looking"):
        progress.say("a line between")
    assert all(words in shown.getvalue() for words in ("Counting", "3/3", "Looking", "a line between"))


@pytest.mark.parametrize("shown", [False], indirect=True)
def test_a_log_is_told_nothing_in_the_first_seconds(shown, capsys):
    assert list(progress.tracked([1, 2], "Counting")) == [1, 2]
    with progress.busy("Looking"):
        pass
    assert shown.getvalue() == capsys.readouterr().err == ""
