"""Accuracy floors: their settings, their values in a run, and the exports that meet them."""

from __future__ import annotations

import html
import json
import shutil

import numpy as np
import pytest
import simulated

from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import batches_by_length
from nas.errors import MissedBudgetsError, StudyError
from nas.evaluate import predict
from nas.evaluate.accuracy import forward_of
from nas.files import validate, write_json
from nas.pipeline import Run, export
from nas.pipeline.data import splits
from nas.pipeline.finalists import (
    Finalist,
    finalists_inputs,
    finalists_of,
    make_finalists,
    trained,
    training_steps,
)
from nas.pipeline.floors import floors_of_candidates, floors_of_exports
from nas.pipeline.plan import plan
from nas.pipeline.reports import report
from nas.pipeline.searches import front
from nas.pipeline.teachers import load_teacher
from nas.progress import Stopwatch
from nas.report.numbers import limits
from nas.study import Study


def test_a_budget_without_a_floor_is_stored_without_floor_settings():
    assert Budget(name="fast", device="cpu", p50_ms="20%").model_dump(mode="json").keys() == {"name", "limits"}


def test_a_floor_limits_costs_to_those_of_the_teacher_and_minimises_latency_by_default():
    plain = Budget(name="kept", device="cpu", accuracy_loss=1)
    assert plain.minimise == "p50_ms" and plain.limits[0].given == {"p50_ms": "100%"}
    small = Budget(name="small", device="cpu", accuracy=0.9, minimise="size_mb", p50_ms="20%")
    assert small.limits[0].given == {"p50_ms": "20%", "size_mb": "100%"}
    several = Budget(name="both", accuracy=0.9, limits=[{"device": "a"}, {"device": "b", "p50_ms": 4.0}])
    assert [limit.given for limit in several.limits] == [{"p50_ms": "100%"}, {"p50_ms": 4.0}]
    for budget in (plain, small, several):
        assert Budget.model_validate(budget.model_dump(mode="json")) == budget
        assert Budget.model_validate(budget.model_dump(mode="json", exclude_none=True)) == budget


def test_the_higher_of_two_floors_applies():
    budget = Budget(name="kept", device="cpu", accuracy=0.85, accuracy_loss=2.0)
    assert budget.floor(0.90, 0.01).minimum == pytest.approx(0.88) and budget.floor(0.86, 0.01).minimum == 0.85
    assert budget.floor(0.90, 0.01).confident == pytest.approx(0.89)
    assert Budget(name="fast", device="cpu", p50_ms="20%").floor(0.9, 0.01) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accuracy": 90.0}, ["accuracy", "at most 1", "0.9", "90"]),
        ({"accuracy": "0.9"}, ["accuracy", "number", "'0.9'"]),
        ({"accuracy_loss": -1.0}, ["accuracy_loss", "at least 0", "-1"]),
        ({"accuracy_loss": 100.0}, ["accuracy_loss", "below 100"]),
        ({"accuracy": 0.9, "minimise": "throughput_per_s"}, ["minimise", "'p50_ms'", "'throughput_per_s'"]),
        ({"p50_ms": 4.0, "minimise": "size_mb"}, ["minimise", "add accuracy or accuracy_loss"]),
        ({}, ["at least one of", "accuracy_loss"]),
    ],
)
def test_an_invalid_floor_is_refused_in_one_line(settings, words, tmp_path):
    with pytest.raises(StudyError) as refused:
        validate(Budget, {"name": "kept", "device": "cpu", **settings}, tmp_path, StudyError)
    assert all(word in str(refused.value) for word in words) and "\n" not in str(refused.value)


def test_floors_and_limits_are_described_in_words():
    budget = Budget(name="kept", device="cpu", accuracy=0.9, accuracy_loss=1.0, size_mb=4.0)
    assert limits(budget, {}) == [
        "accuracy \N{GREATER-THAN OR EQUAL TO} 0.9", "accuracy at most 1 point below the teacher's", "minimum p50",
        "size \N{LESS-THAN OR EQUAL TO} 4.00 MB",
    ]  # fmt: skip


def test_the_accuracy_of_inherited_weights_is_reduced_by_the_selection_bias():
    found = Finalist(0.90, 0.01, ((4, 0.86), (8, 0.87)))
    assert not found.is_gain and found.corrected_accuracy == pytest.approx(0.88)
    assert Finalist(0.90, 0.01, ((8, 0.89),)).corrected_accuracy == 0.89
    assert Finalist(0.90, 0.01, ()).corrected_accuracy == pytest.approx(0.88) == Finalist(0.90, 0.01, ()).expected(8)
    assert Finalist(0.80, 0.01, ((2, 0.84),)).expected(8) == pytest.approx(0.88), (
        "after a quarter of the steps, half of the gain is expected"
    )
    assert Finalist(0.80, 0.01, ((2, 0.78),)).expected(8) == pytest.approx(0.78)


BUDGETS = """
[[budgets]]
name = "kept"
device = "cpu"
accuracy_loss = {loss}

[[budgets]]
name = "small"
device = "cpu"
p50_ms = "80%"
accuracy = 0.5
minimise = "size_mb"

[supernet]
"""


def _with_floors(study, folder, loss, more=""):
    """Return the run of a copy of the finished tiny study, with floors instead of its budgets."""
    path = shutil.copytree(study.parent, folder / "tiny") / study.name
    text = path.read_text()
    at, end = text.index("[[budgets]]"), text.index("[supernet]")
    path.write_text(text[:at] + BUDGETS.format(loss=loss).lstrip() + text[end + len("[supernet]\n") :] + more)
    return Run.of(Study.load(path), path.parent / "runs")


@pytest.fixture(scope="module")
def run(finished_study, tmp_path_factory):
    """An exported run of the tiny study with floors that can be met."""
    found = _with_floors(finished_study, tmp_path_factory.mktemp("floors"), 30.0)
    with simulated.times():
        export(found)
    return found


@pytest.mark.slow
def test_an_export_is_the_cheapest_finalist_that_meets_the_floor(run):
    floors, done, steps = floors_of_exports(run), trained(run.finalists), training_steps(run)
    for name, metric in (("kept", "p50_ms"), ("small", "size_mb")):
        measured = {item["digest"]: item for item in front(run)["budgets"][name] if item["met"]}
        group = [architecture.digest for architecture in finalists_of(run)[name]]
        complete = [digest for digest in group if done[digest].accuracies[-1][0] == steps]
        assert complete and len(group) <= 6
        meeting = [digest for digest in complete if done[digest].corrected_accuracy >= floors[name].minimum]
        found = json.loads((run.export(name) / "verification.json").read_text())
        cheapest = min(meeting, key=lambda digest: measured[digest][metric])
        assert Architecture.from_json(found["architecture"]).digest == cheapest
        assert found["met"] and found["floor"] == floors[name].minimum <= found["search_accuracy"]
        assert found["teacher_search_accuracy"] == floors[name].teacher


@pytest.mark.slow
def test_the_floor_is_the_teacher_s_accuracy_on_the_search_set_minus_the_allowed_loss(run):
    judged = splits(run).search
    logits = predict(forward_of(load_teacher(run)), batches_by_length(judged))
    accuracy = float((logits.argmax(axis=1) == np.asarray(judged["labels"])).mean())
    found = floors_of_exports(run)
    assert found["kept"].teacher == accuracy == front(run)["teacher_search_accuracy"]
    assert found["kept"].minimum == pytest.approx(accuracy - 0.3) and found["small"].minimum == 0.5
    error = (accuracy * (1 - accuracy) / len(judged)) ** 0.5
    assert found["kept"].confident - found["kept"].minimum == pytest.approx(2 * error, rel=0.3)
    assert floors_of_candidates(run) == found, "candidates are evaluated on all texts"


@pytest.mark.slow
def test_an_exported_run_is_up_to_date_until_a_floor_changes(run):
    assert all(step["state"] == "done" for step in plan(run.study, run.folder.parent)["steps"])
    other = run.study.budgets[0].model_copy(update={"accuracy_loss": 20.0})
    changed = run.study.model_copy(update={"budgets": (other, *run.study.budgets[1:])})
    assert finalists_inputs(Run(changed, run.folder)) != finalists_inputs(run)


@pytest.mark.slow
def test_the_page_the_model_card_and_the_tables_show_the_floors(run, nas):
    page = report(run).read_text()
    assert "accuracy at most 30 points below the teacher" in page and "minimum size" in page
    assert "accuracy floor on the search set" in page and page.count('class="budget"') >= 3
    assert "The accuracy floor is" in (run.export("kept") / "README.md").read_text()
    output, _ = nas("front", run.study.path, "--runs", run.folder.parent)
    assert "at least 0.5000 after the final training" in output
    output, _ = nas("check", run.study.path, "--runs", run.folder.parent)
    assert "with the lowest size_mb" in output


@pytest.mark.slow
def test_the_message_about_a_missed_floor_names_a_measured_network(finished_study, tmp_path, simulated_times):
    run = _with_floors(finished_study, tmp_path, 0.0, "finalists = 1\n")
    path = run.study.path
    path.write_text(path.read_text().replace("accuracy_loss = 0.0", "accuracy = 1.0"))
    run = Run.of(Study.load(path), path.parent / "runs")
    with pytest.raises(MissedBudgetsError) as missed:
        export(run)
    assert missed.value.reasons.keys() == {"kept"} and (run.export("small") / "verification.json").exists()
    reason = missed.value.reasons["kept"]
    assert (
        "no measured candidate reaches the required accuracy of 1.0000 on the search set" in reason
        and "lower the required accuracy, or raise supernet.steps" in reason
    )
    assert reason.partition(": ")[2].partition("; lower")[0] in html.unescape(report(run).read_text())
    done = trained(run.finalists)
    accuracies = {
        item["digest"]: done[item["digest"]].corrected_accuracy
        for item in front(run)["budgets"]["kept"]
        if item["digest"] in done
    }
    digest = max(accuracies, key=accuracies.get)
    assert f"({digest[:8]}), which reaches {accuracies[digest]:.4f} at" in reason


@pytest.mark.slow
def test_an_interrupted_final_training_keeps_its_costs_if_the_front_is_measured_again(run, tmp_path, monkeypatch):
    copied = Run(run.study, shutil.copytree(run.folder, tmp_path / "tiny"))
    contests = []
    monkeypatch.setattr("nas.pipeline.finalists.train_together", lambda run, folder, all_, *_: contests.append(all_))
    make_finalists(copied, Stopwatch())
    (copied.finalists / "checkpoints").mkdir()
    content = front(copied)
    for item in content["budgets"]["kept"]:
        item["p50_ms"] *= 1.01
    write_json(copied.front, content)
    assert finalists_inputs(copied) == finalists_inputs(run)
    make_finalists(copied, Stopwatch())
    assert contests[0] == contests[1]
    (copied.finalists / "checkpoints").rmdir()
    make_finalists(copied, Stopwatch())
    assert contests[0] != contests[2], "a new training uses the new measurements"
