"""How a run's hours are divided, with made-up speeds."""

from __future__ import annotations

from dataclasses import replace

import pytest

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


@pytest.fixture
def study(tiny_study):
    return Study.load(tiny_study)


@pytest.fixture
def work(monkeypatch):
    monkeypatch.setattr(allowance, "_workload", lambda run: WORK)
    return WORK


def _steps(run):
    return [step for step in steps_of(run) if isinstance(step, Step)]


def test_numbers_follow_from_shares_and_speed_within_their_bounds():
    assert division.supernet_seconds(1000.0, True) == 1000.0 * division.SUPERNET_SHARE
    assert division.supernet_seconds(1000.0, False) > division.supernet_seconds(1000.0, True)
    assert division.training_steps(700.0, 0.5) == 1400
    assert division.training_steps(-5.0, 0.5) == division.training_steps(1.0, 0.5) == division.LEAST_STEPS
    assert division.evaluations(100.0, 0.5) == 200
    assert division.evaluations(-1.0, 0.5) == division.LEAST_EVALUATIONS
    assert division.evaluations(1e6, 0.5) == division.MOST_EVALUATIONS


def test_a_step_takes_less_when_networks_are_dropped():
    rungs = (0.25, 0.5)
    # 6 networks for a quarter, 4 for a quarter, 2 for the rest; 1 s and 0.2 s for each.
    assert division.mean_step(rungs, (6, 4, 2), (2, 1.4), (6, 2.2)) == pytest.approx(
        0.25 * 2.2 + 0.25 * 1.8 + 0.5 * 1.4
    )
    assert division.mean_step(rungs, (1, 1, 1), (1, 1.2), (1, 1.2)) == pytest.approx(1.2)


def test_hours_belong_to_the_supernet_in_place_of_numbers(study, tmp_path):
    plain, hours = Run.of(study, tmp_path), Run.of(study.within(1.0), tmp_path)
    assert supernet_inputs(plain) != supernet_inputs(hours) != supernet_inputs(Run.of(study.within(2.0), tmp_path))

    def with_steps(of):
        return of.model_copy(update={"supernet": of.supernet.model_copy(update={"steps": 77})})

    assert supernet_inputs(Run.of(with_steps(hours.study), tmp_path)) == supernet_inputs(hours)
    assert supernet_inputs(Run.of(with_steps(study), tmp_path)) != supernet_inputs(plain)
    assert study.within(1.0).within(0) == study, "0 leaves the numbers"


def test_hours_of_the_study_file_are_those_of_the_flag(tiny_study, study):
    tiny_study.write_text(tiny_study.read_text() + "\n[training]\nhours = 1.5\n")
    assert Study.load(tiny_study) == study.within(1.5)


def test_a_time_limit_leaves_the_other_settings_of_training(tiny_study):
    tiny_study.write_text(tiny_study.read_text() + "\n[training]\noutputs_gb = 0.5\nreport_to = []\n")
    limited = Study.load(tiny_study).within(1.0).training
    assert (limited.hours, limited.outputs_gb, limited.report_to) == (1.0, 0.5, ())


def test_hours_and_several_processes_are_refused(study):
    shared = study.model_copy(update={"supernet": study.supernet.model_copy(update={"workers": 2})})
    with pytest.raises(StudyError, match=r"training.hours: .* supernet.workers is 2; remove one"):
        shared.within(1.0)
    with pytest.raises(StudyError, match=r"training.hours: input should be greater than 0, but got -1.0"):
        study.within(-1.0)


def test_what_a_step_may_take_is_what_others_leave(study, tmp_path, work):
    run = Run.of(study.within(1.0), tmp_path)
    listed = _steps(run)
    steps = {step.name: step for step in listed}
    fixed = {step.name: step.seconds(run.study, WORK) for step in listed if not step.shares_hours}
    later = sum(fixed[name] for name in ("front", "export-large", "export-small"))
    assert seconds_allowed(run, listed, steps["supernet"]) == pytest.approx(3600 - division.OUTSIDE_STEPS - later)
    for name, seconds in (("teacher", 500.0), ("supernet", 1000.0)):
        with run.step(name, "", steps[name].result):
            steps[name].result.mkdir(parents=True)
        mark = run.folder / "steps" / f"{name}.json"
        mark.write_text(mark.read_text().replace('"seconds": 0.0', f'"seconds": {seconds}'))
    left = 3600 - division.OUTSIDE_STEPS - 1500 - later
    assert seconds_allowed(run, listed, steps["search"]) == pytest.approx(left, abs=1)
    assert seconds_allowed(run, listed, steps["finalists"]) == pytest.approx(left + fixed["front"], abs=1)
    assert seconds_allowed(Run.of(study, tmp_path), listed, steps["search"]) == float("inf")


def test_a_step_that_was_interrupted_has_less_time_left(study, tmp_path, work):
    run, told = Run.of(study.within(1.0), tmp_path), []
    step = replace(
        next(step for step in _steps(run) if step.name == "supernet"),
        needs=(),
        inputs=lambda run: "",
        make=lambda run, stopwatch: told.append(stopwatch.left),
    )
    bring_up_to_date(run, [step], "supernet")
    mark = run.folder / "steps" / "supernet.json"
    mark.write_text(mark.read_text().replace('"seconds": 0.0', '"seconds": 600.0'))
    bring_up_to_date(run, [step], "supernet")
    assert told[0] == pytest.approx(3600 - division.OUTSIDE_STEPS, abs=5) and told[1] == pytest.approx(
        told[0] - 600, abs=5
    )
    assert Stopwatch().left == float("inf")


def test_a_machine_that_was_slow_to_measure_is_taken_to_be_so_for_the_front(study, tmp_path):
    run = Run.of(study.within(1.0), tmp_path)
    steps = {step.name: step for step in _steps(run)}
    assert allowance._workload(run).slowness == 1.0
    profile = steps["profile-cpu"]
    estimated = profile.seconds(run.study, WORK)
    with run.step("profile-cpu", "", profile.result):
        profile.result.parent.mkdir(parents=True)
        profile.result.touch()
    mark = run.folder / "steps" / "profile-cpu.json"
    mark.write_text(mark.read_text().replace('"seconds": 0.0', f'"seconds": {3 * estimated}'))
    work = allowance._workload(run)
    assert work.slowness == pytest.approx(3.0)
    measuring = 2.0 * (
        2 * run.study.export.candidates + 2
    )  # seconds, of candidates and teacher for each of two budgets
    slow, quiet = (steps["front"].seconds(run.study, replace(WORK, slowness=factor)) for factor in (3.0, 1.0))
    assert slow - quiet == pytest.approx(2 * measuring)


def test_the_plan_divides_what_fixed_costs_leave(study, tmp_path):
    listed = _steps(Run.of(study, tmp_path))
    found = divided_seconds(study.within(1.0), WORK, [(step, None) for step in listed])
    assert list(found) == [step.name for step in listed]
    assert sum(found.values()) == pytest.approx(3600 - division.OUTSIDE_STEPS)
    fixed = sum(found[step.name] for step in listed if not step.shares_hours)
    assert found["supernet"] == pytest.approx((3600 - division.OUTSIDE_STEPS - fixed) * division.SUPERNET_SHARE)
    done = {"data": 1.0, "teacher": 1000.0, "profile-cpu": 30.0, "baselines-cpu": 10.0, "supernet": 900.0}
    rest = divided_seconds(study.within(1.0), WORK, [(step, done.get(step.name)) for step in listed])
    assert [name for name, seconds in rest.items() if seconds == 0.0] == list(done)
    assert sum(rest.values()) == pytest.approx(3600 - division.OUTSIDE_STEPS - sum(done.values()))


def test_too_few_hours_are_refused_with_the_least_that_do(study, tmp_path, work):
    run = Run.of(study.within(0.01), tmp_path)
    with pytest.raises(StudyError, match=r"training.hours: 0.01 is too little: .*; give at least [\d.]+$") as problem:
        refuse_too_few(run, steps_of(run))
    least = float(str(problem.value).split()[-1])
    enough = Run.of(study.within(least), tmp_path)
    refuse_too_few(enough, steps_of(enough))
    refuse_too_few(Run.of(study, tmp_path), steps_of(run))
