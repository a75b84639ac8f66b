"""The division of a run's hours among its steps, with an assumed speed of the machine."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from datasets import Dataset

from nas.errors import StudyError
from nas.pipeline import Run, allowance, division
from nas.pipeline.allowance import divided_seconds, refuse_too_few, seconds_allowed
from nas.pipeline.estimates import Workload
from nas.pipeline.runner import bring_up_to_date
from nas.pipeline.step import Step
from nas.pipeline.steps import steps_of
from nas.pipeline.supernets import supernet_inputs
from nas.progress import Stopwatch
from nas.study import Study

WORK = Workload(rows=1000, tokens=10.0, judged=200, operations=1e6, rate=1e9)
AVAILABLE = 3585.0
"""The seconds of an hour that are left for steps, since a run takes 15 seconds outside its steps."""


@pytest.fixture
def study(tiny_study):
    return Study.load(tiny_study)


@pytest.fixture
def work(study, monkeypatch):
    """The workload of a run whose data has not been read, on a machine with an assumed speed."""
    monkeypatch.setattr(allowance, "measured_rate", lambda: 1e9)
    return Workload.of(study, None, rate=1e9)


def test_only_the_texts_on_which_candidates_are_evaluated_are_counted(study):
    """Of five texts of the search set, four have at least three tokens, and three of these are drawn."""
    columns = {"train": [4, 20], "search": [2, 9, 9, 9, 9]}
    data = SimpleNamespace(**{name: Dataset.from_dict({"length": lengths}) for name, lengths in columns.items()})
    everything = Workload.of_data(study, data, 1e9, [])
    assert (everything.rows, everything.tokens, everything.judged) == (2, 12.0, 5)
    assert everything.judged_tokens == pytest.approx(7.6)
    limits = study.search.model_copy(update={"examples": 3, "least_tokens": 3})
    limited = study.model_copy(update={"search": limits})
    work = Workload.of_data(limited, data, 1e9, [])
    assert (work.judged, work.judged_tokens) == (3, 9.0)
    assert Workload.of(limited, None, 1e9).judged == 3 < Workload.of(study, None, 1e9).judged


def _steps(run):
    return [step for step in steps_of(run) if isinstance(step, Step)]


def test_the_supernet_gets_a_fifth_of_the_time_and_more_without_a_final_training():
    assert division.supernet_seconds(1000.0, True) == pytest.approx(200.0)
    assert division.supernet_seconds(1000.0, False) == pytest.approx(750.0)


def test_the_numbers_of_steps_and_evaluations_fill_the_time_within_their_bounds():
    assert division.training_steps(700.0, 0.5) == 1400
    assert division.training_steps(-5.0, 0.5) == division.training_steps(1.0, 0.5) == 50
    assert division.evaluations(100.0, 0.5) == 200
    assert division.evaluations(-1.0, 0.5) == 32
    assert division.evaluations(1e6, 0.5) == 400


def test_the_mean_step_is_shorter_if_networks_are_dropped():
    rungs = (0.25, 0.5)
    # A step takes 1 s and another 0.2 s per network: 2.2 s with 6 networks for a quarter of the steps, 1.8 s with 4
    # networks for the next quarter, and 1.4 s with 2 networks for the rest.
    assert division.mean_step(rungs, (6, 4, 2), (2, 1.4), (6, 2.2)) == pytest.approx(1.7)
    assert division.mean_step(rungs, (1, 1, 1), (1, 1.2), (1, 1.2)) == pytest.approx(1.2)


def test_hours_replace_the_number_of_steps_in_the_supernet_s_digest(study, tmp_path):
    plain, hours = Run.of(study, tmp_path), Run.of(study.within(1.0), tmp_path)
    assert supernet_inputs(plain) != supernet_inputs(hours) != supernet_inputs(Run.of(study.within(2.0), tmp_path))

    def with_steps(study):
        return study.model_copy(update={"supernet": study.supernet.model_copy(update={"steps": 77})})

    assert supernet_inputs(Run.of(with_steps(hours.study), tmp_path)) == supernet_inputs(hours)
    assert supernet_inputs(Run.of(with_steps(study), tmp_path)) != supernet_inputs(plain)
    assert study.within(1.0).within(0) == study, "0 hours remove the time limit"


def test_hours_in_the_study_file_have_the_effect_of_the_option_hours(tiny_study, study):
    tiny_study.write_text(tiny_study.read_text() + "\n[training]\nhours = 1.5\n")
    assert Study.load(tiny_study) == study.within(1.5)


def test_a_time_limit_leaves_the_other_settings_of_training(tiny_study):
    tiny_study.write_text(tiny_study.read_text() + "\n[training]\noutputs_gb = 0.5\nreport_to = []\n")
    limited = Study.load(tiny_study).within(1.0).training
    assert (limited.hours, limited.outputs_gb, limited.report_to) == (1.0, 0.5, ())


def test_hours_with_several_training_processes_are_refused(study):
    shared = study.model_copy(update={"supernet": study.supernet.model_copy(update={"workers": 2})})
    with pytest.raises(StudyError, match=r"training.hours: .* supernet.workers is 2; remove training.hours or"):
        shared.within(1.0)
    with pytest.raises(StudyError, match=r"training.hours: must be above 0, but got -1.0"):
        study.within(-1.0)


def test_a_step_gets_the_time_that_the_other_steps_leave(study, tmp_path, work):
    run = Run.of(study.within(1.0), tmp_path)
    listed = _steps(run)
    steps = {step.name: step for step in listed}
    fixed = {step.name: step.seconds(run.study, work) for step in listed if not step.shares_hours}
    later = sum(fixed[name] for name in ("front", "export-large", "export-small"))
    assert seconds_allowed(run, listed, steps["supernet"]) == pytest.approx(AVAILABLE - later)
    for name, seconds in (("teacher", 500.0), ("supernet", 1000.0)):
        with run.step(name, "", steps[name].result):
            steps[name].result.mkdir(parents=True)
        mark = run.folder / "steps" / f"{name}.json"
        mark.write_text(mark.read_text().replace('"seconds": 0.0', f'"seconds": {seconds}'))
    left = AVAILABLE - 1500 - later
    assert seconds_allowed(run, listed, steps["search"]) == pytest.approx(left, abs=1)
    assert seconds_allowed(run, listed, steps["finalists"]) == pytest.approx(left + fixed["front"], abs=1)
    assert seconds_allowed(Run.of(study, tmp_path), listed, steps["search"]) == float("inf")


def test_a_step_that_was_interrupted_has_less_time_left(study, tmp_path, work):
    run, left = Run.of(study.within(1.0), tmp_path), []
    step = replace(
        next(step for step in _steps(run) if step.name == "supernet"),
        needs=(),
        inputs=lambda run: "",
        make=lambda run, stopwatch: left.append(stopwatch.left),
    )
    bring_up_to_date(run, [step], "supernet")
    mark = run.folder / "steps" / "supernet.json"
    mark.write_text(mark.read_text().replace('"seconds": 0.0', '"seconds": 600.0'))
    bring_up_to_date(run, [step], "supernet")
    assert left == [pytest.approx(AVAILABLE, abs=5), pytest.approx(AVAILABLE - 600, abs=5)]
    assert Stopwatch().left == float("inf")


def test_a_slow_profile_increases_the_time_reserved_for_measuring_the_front(study, tmp_path, work):
    run = Run.of(study.within(1.0), tmp_path)
    listed = _steps(run)
    steps = {step.name: step for step in listed}
    profile = steps["profile-cpu"]
    estimated = profile.seconds(run.study, work)
    before = seconds_allowed(run, listed, steps["search"])
    with run.step("profile-cpu", "", profile.result):
        profile.result.parent.mkdir(parents=True)
        profile.result.touch()
    mark = run.folder / "steps" / "profile-cpu.json"
    mark.write_text(mark.read_text().replace('"seconds": 0.0', f'"seconds": {3 * estimated}'))
    # The front measures two candidates and the teacher for each of two budgets, which takes 2 s per network, 12 s in
    # total. On a machine that is three times as slow, this takes 36 s.
    assert before - seconds_allowed(run, listed, steps["search"]) == pytest.approx(3 * estimated + 24)


def test_the_plan_divides_the_time_that_steps_with_a_fixed_cost_leave(study, tmp_path):
    listed = _steps(Run.of(study, tmp_path))
    found = divided_seconds(study.within(1.0), WORK, [(step, None) for step in listed])
    assert list(found) == [step.name for step in listed]
    assert sum(found.values()) == pytest.approx(AVAILABLE)
    fixed = sum(found[step.name] for step in listed if not step.shares_hours)
    assert found["supernet"] == pytest.approx((AVAILABLE - fixed) / 5)
    done = {"data": 1.0, "teacher": 1000.0, "profile-cpu": 30.0, "baselines-cpu": 10.0, "supernet": 900.0}
    rest = divided_seconds(study.within(1.0), WORK, [(step, done.get(step.name)) for step in listed])
    assert [name for name, seconds in rest.items() if seconds == 0.0] == list(done)
    assert sum(rest.values()) == pytest.approx(AVAILABLE - 1941.0)


def test_too_few_hours_are_refused_with_a_number_that_is_enough(study, tmp_path, work):
    run = Run.of(study.within(0.01), tmp_path)
    message = (
        r"training.hours: must be more than 0.0\d\d, .* take this many hours, but got 0.01; set it to at least [\d.]+$"
    )
    with pytest.raises(StudyError, match=message) as problem:
        refuse_too_few(run, steps_of(run))
    least = float(str(problem.value).split()[-1])
    enough = Run.of(study.within(least), tmp_path)
    refuse_too_few(enough, steps_of(enough))
    refuse_too_few(Run.of(study, tmp_path), steps_of(run))
