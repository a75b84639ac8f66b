"""The folder of a run: when a step counts as done."""

from __future__ import annotations

import pickle

import pytest

from nas.pipeline import Run
from nas.study import Study


@pytest.fixture
def run(tiny_study, tmp_path):
    return Run.of(Study.load(tiny_study), tmp_path / "runs")


def _do(run, inputs="inputs", fail=False):
    """A step that leaves half of its result if it fails."""
    with run.step("step", inputs, run.folder / "result", run.folder / "aside"):
        (run.folder / "result").mkdir(parents=True, exist_ok=True)
        (run.folder / "aside").mkdir(exist_ok=True)
        if fail:
            raise KeyboardInterrupt


def test_a_step_is_done_from_the_same_inputs_while_its_result_is_there(run):
    _do(run)
    assert run.is_done("step", "inputs") and not run.is_done("step", "others")
    (run.folder / "result").rmdir()
    assert not run.is_finished("step")


def test_an_interrupted_redo_of_what_was_taken_away_is_not_done(run):
    _do(run)
    (run.folder / "result").rmdir()
    with pytest.raises(KeyboardInterrupt):
        _do(run, fail=True)
    assert (run.folder / "result").exists() and not run.is_finished("step")
    assert (run.folder / "aside").exists(), "it may go on with what it left aside"
    _do(run)
    assert run.is_done("step", "inputs")


def test_what_goes_on_stays_done_when_it_is_interrupted(run):
    """As a search that is asked for more."""
    _do(run)
    with pytest.raises(KeyboardInterrupt):
        _do(run, fail=True)
    assert run.is_done("step", "inputs")


def test_notes_stay_until_the_step_is_made_of_others(run):
    _do(run)
    run.add_note("step", found=3)
    _do(run)
    assert run.get_note("step", "found") == 3 and run.is_done("step", "inputs")
    _do(run, "others")
    assert run.get_note("step", "found") is None


def test_who_listens_to_a_run_hears_of_its_steps_and_may_stop_it(run):
    heard = []
    assert run.listen(lambda event: heard.append((event["event"], event.get("step")))) is run
    _do(run)
    assert not heard  # nothing was done by a command
    with run.remembering():
        _do(run)
        with pytest.raises(KeyboardInterrupt):
            _do(run, fail=True)
    assert heard == [("started", "step"), ("finished", "step"), ("started", "step"), ("stopped", "step")]

    def refuse(event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), run.listen(refuse).remembering():
        _do(run, "others")
    assert not run.is_finished("step") and pickle.loads(pickle.dumps(run)).study == run.study
