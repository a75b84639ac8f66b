"""The final training of a study: its finalists, their order, and the exports that are made from them."""

from __future__ import annotations

import shutil

import pytest

from nas.architecture import Architecture
from nas.pipeline import Run, export, export_trial, exports
from nas.pipeline.finalists import (
    Finalist,
    finalists_inputs,
    finalists_of,
    load_trained,
    trained,
    training_steps,
)
from nas.pipeline.searches import front
from nas.study import Study


def test_finalists_are_ordered_by_training_steps_and_then_by_accuracy():
    dropped = Finalist(0.9, 0.01, ((4, 0.95),))
    first, second = Finalist(0.5, 0.01, ((4, 0.6), (8, 0.7))), Finalist(0.6, 0.01, ((4, 0.7), (8, 0.65)))
    assert sorted([dropped, second, first], key=lambda finalist: finalist.order) == [first, second, dropped]


@pytest.fixture
def run(finished_study, simulated_times):
    return Run.of(Study.load(finished_study), finished_study.parent / "runs")


@pytest.mark.slow
def test_exports_are_the_most_accurate_finalists(run):
    done, groups = trained(run.finalists), finalists_of(run)
    met = {name: [item for item in measured if item["met"]] for name, measured in front(run)["budgets"].items()}
    assert {name: len(group) for name, group in groups.items()} == {
        name: min(3, len(candidates)) for name, candidates in met.items()
    }
    assert set(done) == {architecture.digest for group in groups.values() for architecture in group}
    for name, exported in export(run).items():
        architecture = Architecture.from_json(exported["architecture"])
        best = min(groups[name], key=lambda finalist: done[finalist.digest].order)
        assert architecture == best and exported["search_accuracy_inherited"] == done[best.digest].inherited
        model = load_trained(run.finalists, architecture)
        assert model.config.architecture == architecture
    most = max(len(finalist.accuracies) for finalist in done.values())
    last_steps = [each.accuracies[-1][0] for each in done.values() if len(each.accuracies) == most]
    assert len(last_steps) >= len(groups) - 1 and len(set(last_steps)) == 1


@pytest.mark.slow
def test_exporting_a_dropped_finalist_trains_it_to_the_end(run, tmp_path):
    copied = Run(run.study, shutil.copytree(run.folder, tmp_path / "copy"))
    steps, done = training_steps(copied), trained(copied.finalists)
    dropped = next(digest for digest, finalist in done.items() if finalist.accuracies[-1][0] < steps)
    (found,) = export_trial(copied, dropped).values()
    assert [step for step, _ in found["search_accuracy_in_training"]][-1] == steps
    complete = next(digest for digest, finalist in done.items() if finalist.accuracies[-1][0] == steps)
    (found,) = export_trial(copied, complete).values()
    assert found["search_accuracy_in_training"] == [list(each) for each in done[complete].accuracies]
    candidate = exports.candidate_of(copied, complete)
    assert not copied.trainings(exports.trial_name(candidate)).exists(), "it is not trained again"


def test_a_change_of_settings_changes_the_digest_of_the_final_training(run):
    before = finalists_inputs(run)
    assert finalists_inputs(Run(run.study, run.folder)) == before
    for changed in ({"epochs": 0.75}, {"learning_rate": 1e-4}, {"finalists": 1}):
        settings = run.study.export.model_copy(update=changed)
        assert finalists_inputs(Run(run.study.model_copy(update={"export": settings}), run.folder)) != before, changed
    search = run.study.search.model_copy(update={"least_tokens": 5})
    others = Run(run.study.model_copy(update={"search": search}), run.folder)
    assert finalists_inputs(others) != before, "other texts decide"
