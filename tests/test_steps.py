"""The steps of a study are brought up to date in order, and digests of their inputs show which ones are done."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from nas.data import TaskData
from nas.errors import ExportError, SearchError, StudyError
from nas.evaluate.accuracy import RESULT_VERSION as EVALUATION
from nas.files import digest, file_digest, read_json
from nas.pipeline import Run, exports, profiles, search_candidates, searches, sources, supernets
from nas.pipeline.estimates import Workload
from nas.pipeline.run import once
from nas.pipeline.runner import bring_up_to_date, states
from nas.pipeline.step import Check, Step
from nas.pipeline.steps import steps_of
from nas.study import Study, shipped_studies


class Work:
    """Makes steps that write one file each, and records which steps and checks are executed."""

    def __init__(self, run):
        self.run, self.done, self.inputs, self.failing = run, [], {}, {}

    def step(self, name, *needs, **settings):
        def make(run, stopwatch):
            self.done.append(name)
            if name in self.failing:
                raise self.failing[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

        path = self.run.folder / "results" / name
        return Step(name, needs, lambda run: self.inputs.get(name, ""), make, path, lambda study, work: 1.0, **settings)

    def check(self, name, *needs):
        def check(run):
            self.done.append(name)
            if name in self.failing:
                raise self.failing[name]

        return Check(name, needs, check)

    def bring(self, steps, *names, **options):
        """Bring steps up to date; return the tolerated errors, and the names of what was executed in order."""
        self.done.clear()
        return bring_up_to_date(self.run, steps, *names, **options), list(self.done)


@pytest.fixture
def work(run):
    return Work(run)


@pytest.fixture
def listed(work):
    return (
        work.check("early"),
        work.step("data"),
        work.step("profile", "data"),
        work.check("budgets", "profile"),
        work.step("supernet", "data", "early"),
        work.step("search", "budgets", "supernet"),
    )


def test_a_step_is_made_once_after_everything_that_it_needs(work, listed):
    assert work.bring(listed, "search")[1] == ["early", "data", "profile", "budgets", "supernet", "search"]
    assert work.bring(listed, "search")[1] == ["early", "budgets"], "checks are executed every time"
    assert work.bring(listed, "profile")[1] == []


def test_steps_that_are_not_needed_are_not_made(work, listed):
    assert work.bring(listed, "supernet")[1] == ["early", "data", "supernet"]


def test_a_step_with_changed_inputs_is_made_again_and_no_other(work, listed):
    work.bring(listed, "search")
    work.inputs["supernet"] = "others"
    assert work.bring(listed, "search")[1] == ["early", "budgets", "supernet"]


def test_a_failed_check_stops_the_steps_that_need_it_and_keeps_earlier_results(work, listed):
    work.failing["budgets"] = StudyError("too tight")
    with pytest.raises(StudyError, match="too tight"):
        work.bring(listed, "search")
    assert work.done == ["early", "data", "profile", "budgets"]
    assert [step.name for step, done in states(work.run, listed) if done] == ["data", "profile"]
    work.failing["early"] = StudyError("another training")
    with pytest.raises(StudyError, match="another training"):
        work.bring(listed, "search")
    assert work.done == ["early"], "before anything is made"


def test_a_tolerated_error_of_a_named_step_does_not_stop_the_other_named_steps(work):
    listed = (work.step("front"), work.step("large", "front"), work.step("small", "front"))
    work.failing["large"] = ExportError("missed")
    problems, done = work.bring(listed, "large", "small", tolerated=ExportError)
    assert problems == {"large": work.failing["large"]} and done == ["front", "large", "small"]
    with pytest.raises(ExportError):
        work.bring(listed, "large", "small")
    work.failing["front"], work.inputs["front"] = ExportError("no front"), "others"
    with pytest.raises(ExportError, match="no front"):
        work.bring(listed, "large", "small", tolerated=ExportError)


def test_a_step_is_out_of_date_if_a_step_that_it_needs_is_out_of_date(work, listed):
    work.bring(listed, "search")
    assert all(done for _, done in states(work.run, listed))
    work.inputs["profile"] = "others"
    assert {step.name: done for step, done in states(work.run, listed)} == {
        "data": True, "profile": False, "supernet": True, "search": False,
    }  # fmt: skip


def test_inputs_are_not_computed_while_a_needed_step_is_out_of_date(work, listed):
    """They may not be known yet: for example, the inputs of the front are read from the search."""
    work.bring(listed, "search")
    work.inputs["profile"] = "others"
    unknown = replace(listed[-1], inputs=lambda run: pytest.fail("the inputs were computed"))
    step, done = states(work.run, (*listed[:-1], unknown))[-1]
    assert step is unknown and not done


def test_a_step_can_decide_whether_it_is_current_and_an_imported_one_is_not_made(work):
    enough = []
    imported = Step("imported", (), lambda run: "", None, work.run.folder / "none", lambda study, load: 1.0)
    listed = (imported, work.step("search", "imported", current=lambda run: bool(enough)))
    for _ in range(2):
        assert work.bring(listed, "search")[1] == ["search"], "it is made until it is current"
    enough.append(True)
    assert work.bring(listed, "search")[1] == []


def test_the_state_of_a_remote_step_is_determined_without_computing_its_inputs(work):
    listed = (work.step("profile", is_remote=True),)
    assert not states(work.run, listed)[0][1]
    work.bring(listed, "profile")
    work.inputs["profile"] = "another machine"
    assert states(work.run, listed)[0][1]
    assert work.bring(listed, "profile")[1] == ["profile"]


def test_checkpoints_are_removed_when_a_step_is_done(work):
    step = work.step("teacher", other_outputs=(work.run.folder / "trainings",))
    for left in (folder := work.run.folder / "trainings", folder / "candidate"):
        (left / "checkpoints").mkdir(parents=True)
    work.failing["teacher"] = StudyError("killed")
    with work.run.step("teacher", "", step.result):  # an earlier start
        step.result.mkdir(parents=True)
    step.result.rmdir()
    with pytest.raises(StudyError):
        work.bring((step,), "teacher")
    assert len(list(folder.rglob("checkpoints"))) == 2
    work.failing.clear()
    work.bring((step,), "teacher")
    assert folder.exists() and not list(folder.rglob("checkpoints"))


def test_a_cached_function_is_called_once_until_a_step_starts_or_ends(run):
    calls = []

    @once
    def find(run):
        calls.append(run)
        return len(calls)

    assert [find(run), find(run)] == [1, 2], "outside a command, nothing is cached"
    with run.remembering():
        with run.remembering():
            assert [find(run), find(run)] == [3, 3]
        assert find(run) == 3
        with run.step("step", "", run.folder / "result"):
            assert [find(run), find(run)] == [4, 4]
        assert find(run) == 5
    assert find(run) == 6


@pytest.mark.parametrize("path", shipped_studies().values(), ids=shipped_studies())
def test_every_step_of_a_study_comes_after_the_steps_that_it_needs(path, tmp_path):
    variables = tomllib.loads(path.read_text()).get("variables", {})
    listed = steps_of(Run.of(Study.load(path, dict.fromkeys(variables, str(tmp_path))), tmp_path))
    names = [step.name for step in listed]
    assert len(set(names)) == len(names)
    for at, step in enumerate(listed):
        assert set(step.needs) <= set(names[:at]), step.name


def test_estimates_scale_with_the_speed_of_the_machine_and_the_number_of_steps(run):
    slow = Workload(rows=1000, tokens=20.0, judged=100, operations=1e6, rate=1e9)
    fast = Workload(rows=1000, tokens=20.0, judged=100, operations=1e6, rate=2e9)
    steps = {step.name: step for step in steps_of(run) if isinstance(step, Step)}
    front = steps["front"].seconds
    assert front(run.study, slow) > front(run.study, fast) > front(run.study.within(1.0), fast) > 0
    for name in ("teacher", "supernet", "search"):
        estimate = steps[name].seconds
        assert 0 < estimate(run.study, slow) == pytest.approx(2 * estimate(run.study, fast))
    longer = run.study.model_copy(update={"supernet": run.study.supernet.model_copy(update={"steps": 60})})
    assert steps["supernet"].seconds(longer, slow) == pytest.approx(2 * steps["supernet"].seconds(run.study, slow))


@pytest.fixture(scope="module")
def finished(finished_study):
    return Run.of(Study.load(finished_study), finished_study.parent / "runs")


def test_an_up_to_date_run_reads_its_splits_and_its_trials_once(finished, monkeypatch):
    counts, load, of = Counter(), TaskData.load, searches.SearchState.of
    monkeypatch.setattr(TaskData, "load", lambda path: counts.update(["splits"]) or load(path))
    monkeypatch.setattr(searches.SearchState, "of", lambda trials: counts.update(["trials"]) or of(trials))
    assert len(search_candidates(finished).results) == 16
    assert counts == {"splits": 1, "trials": 1}


def test_the_digests_of_steps_do_not_change_between_versions(finished):
    """The digests are stored on disk, so existing runs stay up to date only if the digests are composed as before."""
    study, folder, expected = finished.study, finished.study.path.parent, {}

    def contents(*patterns):
        return {path.name: file_digest(path) for pattern in patterns for path in (folder / "teacher").glob(pattern)}

    newer = {"unlabelled", "threshold", "query", "search", "pair", "output_width"}  # settings that older runs lack
    task = study.task.model_dump(mode="json", exclude=newer) | {"revision": None}
    task |= {name: [".parquet", file_digest(folder / f"{name}.parquet")] for name in ("train", "test")}
    teacher = study.teacher.model_dump(mode="json", exclude={"model", "outputs"}) | {"revision": None}
    tokenizer = {"model": None, "revision": None, "prune_vocabulary": False, "tuned": True}
    expected["data"] = digest([4, task, study.seed, tokenizer, contents("*.json", "*.txt", "*.model")])
    expected["teacher"] = digest([3, expected["data"], teacher, study.seed, contents("*.safetensors")])
    recipe, *others = profiles.recipes(finished)
    assert not others
    machine = profiles.fingerprint(recipe.device)
    expected["profile-cpu"] = digest([recipe.digest, machine])
    origin = {"form": 4, "task": task, "teacher": teacher, "files": expected["teacher"], "seed": study.seed}
    settings = study.supernet.model_dump(mode="json", exclude={"workers", "progressive"})
    limits = [[{"device": "cpu", "p50_ms": limit}] for limit in ("80%", "50%")]
    near = {"budgets": limits, "devices": [recipe.device.model_dump(mode="json", exclude={"repeats"})]}
    expected["supernet"] = digest(origin | {"search_space": study.space.definition, "supernet": settings} | near)
    judged = [EVALUATION, study.search.examples, study.search.least_tokens, study.search.bf16, True]
    expected["search"] = digest([expected["supernet"], [recipe.digest], study.digest("budgets"), *judged])
    results = [result.to_json() for result in searches.searched(finished).results]
    measured = [file_digest(finished.profile("cpu"))]
    expected["front"] = digest([searches._RESULT_VERSION, results, study.export.candidates, measured])
    expected["baselines-cpu"] = digest(
        [exports._RESULT_VERSION, expected["teacher"], recipe.device.model_dump(mode="json"), machine]
    )
    expected["static-cpu"] = digest([1, expected["baselines-cpu"]])
    budgets = read_json(finished.front, SearchError)["budgets"]
    groups = {name: [item["digest"] for item in found if item["met"]][:3] for name, found in budgets.items()}
    kept = study.export.model_dump(mode="json", include={"finalists", "epochs", "learning_rate", "batch_size"})
    expected["finalists"] = digest([groups, {"form": 2, "supernet": expected["supernet"], "export": kept}])
    for budget in study.budgets:
        given = [exports._RESULT_VERSION, file_digest(finished.front), expected["supernet"], study.digest("export")]
        expected[f"export-{budget.name}"] = digest([*given, budget.model_dump(mode="json"), expected["finalists"]])
    assert (sources._DATA_VERSION, sources.TEACHER_VERSION, supernets._RESULT_VERSION) == (4, 3, 4)
    marks = {path.stem: json.loads(path.read_text()) for path in (finished.folder / "steps").glob("*.json")}
    assert {name: mark["inputs"] for name, mark in marks.items()} == expected
    assert {step.name for step, done in states(finished, steps_of(finished)) if done} == set(expected)


def test_the_diagram_of_a_study_shows_its_steps(tiny_study, tmp_path):
    """The study has one device and one budget. Checks, and arrows that a longer path implies, are not drawn."""
    study = Study.load(tiny_study)
    run = Run.of(study.model_copy(update={"budgets": study.budgets[:1]}), tmp_path / "runs")
    below: dict[str, set[str]] = {}
    for each in steps_of(run):
        below[each.name] = set(each.needs).union(*(below[need] for need in each.needs))
    names = {step.name for step in steps_of(run) if isinstance(step, Step)}
    needed = {name: below[name] & names for name in names}
    implied = {name: set().union(*(needed[other] for other in needed[name])) for name in names}
    expected = {(other, name) for name in names for other in needed[name] - implied[name]}
    drawn = Path(__file__, "../../docs/design.md").resolve().read_text().split("```mermaid\n")[2].split("```")[0]
    labels = dict(re.findall(r'(\w+)\["([^"]+)"\]', drawn))
    (device,), (budget,) = run.study.devices, run.study.budgets
    given = {
        word: label.replace("DEVICE", device.name).replace("BUDGET", budget.name) for word, label in labels.items()
    }
    arrows = re.findall(r'(\w+)(?:\["[^"]+"\])? --> (\w+)', drawn)
    assert {(given.get(first, first), given.get(second, second)) for first, second in arrows} == expected
