"""The folder of a run records which steps are done, and from which inputs."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest

from nas.errors import StudyError
from nas.files import read_json
from nas.progress import track


def _make(run, inputs="inputs", fail=False):
    """Make the result of a step; if `fail` is set, interrupt it halfway."""
    with run.step("step", inputs, run.folder / "result", run.folder / "aside"):
        (run.folder / "result").mkdir(parents=True, exist_ok=True)
        (run.folder / "aside").mkdir(exist_ok=True)
        if fail:
            raise KeyboardInterrupt


def test_a_step_is_done_only_for_the_same_inputs_and_while_its_result_exists(run):
    _make(run)
    assert run.is_done("step", "inputs") and not run.is_done("step", "others")
    (run.folder / "result").rmdir()
    assert not run.is_finished("step")


def test_a_step_is_not_done_if_rebuilding_its_removed_result_was_interrupted(run):
    _make(run)
    (run.folder / "result").rmdir()
    with pytest.raises(KeyboardInterrupt):
        _make(run, fail=True)
    assert (run.folder / "result").exists() and not run.is_finished("step")
    assert (run.folder / "aside").exists(), "the step may resume from it"
    _make(run)
    assert run.is_done("step", "inputs")


def test_a_step_that_is_continued_stays_done_when_it_is_interrupted(run):
    """For example, a search that is continued with more evaluations."""
    _make(run)
    with pytest.raises(KeyboardInterrupt):
        _make(run, fail=True)
    assert run.is_done("step", "inputs")


def test_notes_are_kept_until_the_step_is_made_from_other_inputs(run):
    _make(run)
    run.add_note("step", found=3)
    _make(run)
    assert run.get_note("step", "found") == 3 and run.is_done("step", "inputs")
    _make(run, "others")
    assert run.get_note("step", "found") is None


def test_a_listener_receives_the_events_of_steps_and_can_stop_the_run(run):
    events = []
    assert run.listen(lambda event: events.append((event["event"], event.get("step")))) is run
    _make(run)
    assert not events  # outside a command, no events are sent
    with run.remembering():
        _make(run)
        with pytest.raises(KeyboardInterrupt):
            _make(run, fail=True)
    assert events == [("started", "step"), ("finished", "step"), ("started", "step"), ("stopped", "step")]

    def refuse(event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), run.listen(refuse).remembering():
        _make(run, "others")
    assert not run.is_finished("step") and pickle.loads(pickle.dumps(run)).study == run.study


def test_the_seconds_of_a_running_step_survive_if_the_process_is_killed(run, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("nas.pipeline.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    path, seconds = run.folder / "steps" / "step.json", []
    with run.step("step", "inputs", run.folder / "result"), track("Work", 3) as progress:
        for done, at in enumerate((104.0, 130.0, 135.0), start=1):
            now[0] = at
            progress(done)
            seconds.append(read_json(path, StudyError)["seconds"])
        killed = path.read_bytes()
    assert seconds == [0.0, 30.0, 30.0]
    path.write_bytes(killed)
    with run.step("step", "inputs", run.folder / "result", allowed=100.0), track("Work", 3) as progress:
        now[0] = 148.0
        progress(1)
        now[0] = 160.0
    assert read_json(path, StudyError)["seconds"] == 55.0
