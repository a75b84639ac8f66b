"""Results of a searched run stay up to date until their inputs change, and outdated results are named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from tiny import make_rows

from nas import files
from nas.errors import DeviceError, TrainingError
from nas.pipeline import Run, export, exports, profile, profiles, search_candidates, searches, statics, supernets
from nas.pipeline.commands import evaluate_candidates
from nas.pipeline.devices import _command
from nas.pipeline.finalists import Finalist
from nas.pipeline.outdated import outdated
from nas.pipeline.runner import states
from nas.pipeline.steps import steps_of
from nas.study import Study
from nas.supernet.checkpoints import bind


@pytest.fixture
def study(searched_study, tmp_path):
    return shutil.copytree(searched_study.parent, tmp_path / "tiny") / searched_study.name


@pytest.fixture
def run(study):
    return Run.of(Study.load(study), study.parent / "runs")


def _with_values(run, part, **values):
    """Return the same run with other values in one of the study's tables."""
    table = getattr(run.study, part).model_copy(update=values)
    return Run(run.study.model_copy(update={part: table}), run.folder)


def _states(nas, study, runs):
    output, _ = nas("check", study, "--runs", runs, "--json")
    return {step["step"]: step["state"] for step in json.loads(output.splitlines()[-1])["steps"]}


SEARCHED = {"data", "teacher", "profile-cpu", "supernet", "search", "front"}


def _done(run):
    """Return the names of the steps that are up to date."""
    return {step.name for step, done in states(run, steps_of(run)) if done}


def _measure_again(run):
    """Change the stored profile, as a new measurement does."""
    path = run.profile("cpu")
    found = json.loads(path.read_text())
    found["teacher"]["p50_ms"] *= 2.0
    path.write_text(json.dumps(found))


@pytest.fixture
def absolute_study(study):
    """The study with absolute paths of its data and its teacher, as variables may contain them."""
    text = study.read_text()
    for name in ("train.parquet", "test.parquet", "./teacher"):
        text = text.replace(f'"{name}"', f'"{study.parent / name}"')
    study.write_text(text)
    return study


def test_a_study_that_is_moved_with_its_data_and_its_run_stays_up_to_date(absolute_study, tmp_path):
    """Files are identified by their content, not by their path: another computer may join from another mount point."""
    before = Run.of(Study.load(absolute_study), absolute_study.parent / "runs")
    assert outdated(before) == "" and _done(before) == SEARCHED
    moved = tmp_path / "elsewhere" / "tiny"
    absolute_study.parent.rename(moved.parent.mkdir() or moved)
    (moved / "study.toml").write_text(
        (moved / "study.toml").read_text().replace(str(absolute_study.parent), str(moved))
    )
    run = Run.of(Study.load(moved / "study.toml"), moved / "runs")
    assert outdated(run) == "" and _done(run) == SEARCHED
    assert len(searches.join_search(run).results) == 16


def test_files_with_new_names_are_the_same_data(absolute_study):
    folder = absolute_study.parent
    (folder / "train.parquet").rename(folder / "rows.parquet")
    (folder / "teacher").rename(folder / "bert")
    text = (
        absolute_study.read_text()
        .replace("train.parquet", "rows.parquet")
        .replace(f"{folder}/./teacher", f"{folder}/bert")
    )
    absolute_study.write_text(text.replace(str(folder / "teacher"), str(folder / "bert")))
    assert outdated(Run.of(Study.load(absolute_study), folder / "runs")) == ""


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet"])
def test_a_replaced_data_file_makes_results_outdated(absolute_study, name):
    make_rows(300, 7).to_parquet(absolute_study.parent / name)
    assert "teacher, supernet" in outdated(Run.of(Study.load(absolute_study), absolute_study.parent / "runs"))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_file_of_the_teacher_makes_results_outdated(absolute_study, name):
    with (absolute_study.parent / "teacher" / name).open("ab") as file:
        file.write(b" ")
    assert "teacher, supernet" in outdated(Run.of(Study.load(absolute_study), absolute_study.parent / "runs"))


@pytest.mark.parametrize(
    ("version", "steps"),
    [
        ("nas.pipeline.sources._DATA_VERSION", ("teacher", "supernet", "front")),
        ("nas.pipeline.sources.TEACHER_VERSION", ("teacher", "supernet", "front")),
        ("nas.pipeline.supernets._RESULT_VERSION", ("supernet", "front")),
        ("nas.pipeline.searches.EVALUATION_VERSION", ("front",)),
    ],
)
def test_results_of_another_version_of_nas_are_outdated(run, monkeypatch, version, steps):
    monkeypatch.setattr(version, 99)
    assert f"since they were computed: {', '.join(steps)}; run nas run to rebuild them" in outdated(run)


def test_accuracies_of_another_version_are_not_reused(run, monkeypatch):
    recipe = searches.evaluation(run)
    known = searches.SearchState.of(searches.trials_of(run, profiles.costs_of(run))).results[0].architecture
    assert searches.executor_of(run, recipe)._memory.get(known) is not None
    monkeypatch.setattr("nas.pipeline.searches.EVALUATION_VERSION", 99)
    assert searches.executor_of(run, recipe)._memory.get(known) is None


def test_an_up_to_date_run_reads_no_file_twice_for_its_digest(run, monkeypatch):
    """Several steps need the same digests, and the files of teachers and data may be large."""
    hashed, file_digest = Counter(), hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: hashed.update([file.name]) or file_digest(file, kind)
    )
    files._file_digest.cache_clear()
    search_candidates(run)
    assert {run.study.resolve("train.parquet"), run.study.resolve("teacher/model.safetensors")} <= {*map(Path, hashed)}
    assert max(hashed.values()) == 1


def test_a_message_explains_why_a_step_is_rebuilt(run, capsys):
    with run.step("supernet", "other inputs", run.folder / "result"):
        pass
    words = "supernet: settings, files or nas itself have changed since this step was run"
    assert capsys.readouterr().err.count(words) == 1


def test_an_unfinished_training_of_another_version_is_refused(run, monkeypatch):
    checkpoints = run.supernet / "checkpoints"
    bind(checkpoints, supernets._origin(run))
    (checkpoints / "checkpoint-10").mkdir()
    for name in ("model.safetensors", "optimizer.safetensors", "trainer.json", "random-0.json", "trainer_state.json"):
        (checkpoints / "checkpoint-10" / name).touch()
    (checkpoints / "checkpoint-10" / "complete").touch()
    (run.folder / "steps" / "supernet.json").unlink()
    supernets.refuse_other_training(run)
    other = run.study.model_copy(update={"seed": 5})  # it also changes the digest of the teacher's inputs
    with pytest.raises(TrainingError, match="was started with seed = 0, which is 5 now; undo this change"):
        supernets.refuse_other_training(Run(other, run.folder))
    with monkeypatch.context() as patch:
        patch.setattr(supernets, "teacher_inputs", lambda run: "0" * 16)
        message = r"with different inputs \(files: its digest was [0-9a-f]{16} and is 0{16} now\); undo"
        with pytest.raises(TrainingError, match=message):
            supernets.refuse_other_training(Run(run.study, run.folder))
    monkeypatch.setattr(supernets, "_RESULT_VERSION", 99)
    with pytest.raises(TrainingError, match="different version of nas started; finish it with that version, or remove"):
        supernets.refuse_other_training(Run(run.study, run.folder))


def test_candidates_and_finalists_are_evaluated_on_the_processor_that_trains(run, monkeypatch):
    monkeypatch.setattr("nas.pipeline.searches.training_processor", lambda: "meta")
    assert searches.evaluation(run).processor == "meta"
    writer = exports._Writer(run, fine_tune=False)
    assert writer.evaluator.processor == "meta"
    assert {batch.inputs["input_ids"].device.type for batch in writer.evaluator.batches} == {"meta"}


def test_trained_weights_may_lose_up_to_two_standard_errors_of_the_inherited_accuracy():
    """That is 1.4 points for an accuracy with a standard error of 0.7 points, and 4 points for a noisy correlation."""
    assert Finalist(0.900, 0.007, ((5, 0.880), (9, 0.887))).is_gain
    assert not Finalist(0.900, 0.007, ((5, 0.900), (9, 0.885))).is_gain
    assert Finalist(0.80, 0.02, ((5, 0.77),)).is_gain and not Finalist(0.80, 0.02, ((5, 0.75),)).is_gain


def test_results_of_an_older_version_of_the_study_are_named(run):
    assert outdated(run) == ""
    assert outdated(_with_values(run, "supernet", steps=31)).startswith(
        "Outdated results, because the study or nas has changed since they were computed: supernet, front; "
    )
    few = Run(run.study.model_copy(update={"budgets": run.study.budgets[:1]}), run.folder)
    assert "computed: supernet, front; run nas run to rebuild them" in outdated(few)
    assert "computed: front; run nas run to rebuild them" in outdated(_with_values(run, "search", evaluations=17))
    slower = run.study.devices[0].model_copy(update={"batch_size": 2})
    other = Run(run.study.model_copy(update={"devices": (slower,)}), run.folder)
    assert "computed: supernet, profile of cpu, front; run nas run to rebuild them" in outdated(other)
    _measure_again(run)
    assert "computed: front; run nas run to rebuild them" in outdated(run)


def test_front_and_report_say_that_results_are_outdated(nas, study):
    runs = study.parent / "runs"
    words = "Outdated results, because the study or nas has changed since they were computed: supernet, front"
    _, error = nas("front", study, "--runs", runs)
    assert words not in error
    study.write_text(study.read_text().replace("steps = 30", "steps = 31"))
    for verb in ("front", "report"):
        _, error = nas(verb, study, "--runs", runs)
        assert error.count(words) == 1
    assert words in (study.parent / "runs" / "tiny" / "report.html").read_text()


def test_check_shows_which_steps_a_change_makes_outdated(nas, study, run):
    runs = study.parent / "runs"
    steps = [step.name for step, _ in states(run, steps_of(run))]
    done = {step: "done" if step in SEARCHED else "to do" for step in steps}
    assert _states(nas, study, runs) == done
    text = study.read_text()
    study.write_text(text.replace("evaluations = 16", "evaluations = 17"))
    assert _states(nas, study, runs) == done | {"search": "to do", "front": "to do"}
    study.write_text(text.replace("candidates = 2", "candidates = 3"))
    assert _states(nas, study, runs) == done | {"front": "to do"}
    study.write_text(text)
    _measure_again(run)
    assert _states(nas, study, runs) == done | {"front": "to do"}


def test_an_exhausted_search_is_not_repeated_for_the_same_number_of_evaluations(run, monkeypatch):
    requested = []

    def exhausted(trials, evaluations, *rest):
        requested.append(evaluations)
        return searches.SearchState.of(trials)

    monkeypatch.setattr(searches, "search", exhausted)
    more = _with_values(run, "search", evaluations=50)
    for _ in range(2):
        assert len(evaluate_candidates(more).results) == 16
    assert requested == [50]
    assert len(json.loads(run.front.read_text())["candidates"]) == 16 and outdated(more) == ""
    evaluate_candidates(_with_values(run, "search", evaluations=60))
    evaluate_candidates(_with_values(run, "search", evaluations=60, sampler="random"))
    assert requested == [50, 60, 60]


def _mark_as_exported(run, name, inputs):
    """Mark an export with these inputs as done in the run."""
    with run.step(f"export-{name}", inputs, run.export(name)):
        run.export(name).mkdir(parents=True)


def test_a_fine_tuned_export_is_kept_if_no_fine_tuning_is_requested(run, monkeypatch, capsys):
    monkeypatch.setattr(exports, "make_baselines", lambda *given, device: None)
    monkeypatch.setattr(statics, "make_static", lambda *given, device: None)
    monkeypatch.setattr(exports, "read_json", lambda path, error: path.parent.name)
    monkeypatch.setattr(exports, "front", lambda run: (_ for _ in ()).throw(AssertionError("an export is rebuilt")))
    for budget in run.study.budgets:
        _mark_as_exported(run, budget.name, exports.export_inputs(run, budget, fine_tune=True))
    assert export(run, fine_tune=False) == {"large": "large", "small": "small"}
    assert capsys.readouterr().err.count("the existing export, which is fine-tuned, is up to date and is kept") == 2
    with pytest.raises(AssertionError, match="is rebuilt"):
        export(_with_values(run, "export", epochs=0.25), fine_tune=False)


def test_the_export_of_a_candidate_is_outdated_after_a_new_profile(run):
    candidate = searches.front(run)["candidates"][0]
    name = exports.trial_name(candidate)
    _mark_as_exported(run, name, exports.trial_inputs(run, candidate, fine_tune=False))
    assert exports.exported(run) == [name]
    _measure_again(run)
    assert exports.exported(run) == []


def test_the_export_of_a_candidate_depends_on_the_texts_on_which_it_is_evaluated(run):
    candidate = searches.front(run)["candidates"][0]
    others = _with_values(run, "search", least_tokens=5)
    inputs = [exports.trial_inputs(each, candidate, fine_tune=False) for each in (run, others)]
    assert inputs[0] != inputs[1]


def test_a_search_in_a_database_is_done_before_the_front_is_measured(run, monkeypatch):
    shutil.rmtree(run.journal.parent)
    monkeypatch.setattr(searches, "evaluate", lambda *_: searches.SearchState([], [], {}))
    with run.step("search", searches.search_inputs(run), run.journal.parent) as stopwatch:
        searches.make_search(run, stopwatch)
    assert run.is_finished("search")


def test_a_missed_budget_is_forgotten_after_a_new_profile(run):
    budget, architecture = run.study.budgets[0], searches.front(run)["candidates"][0]["architecture"]
    before = exports.export_inputs(run, budget, fine_tune=True)
    exports.record_miss(run, budget, architecture)
    assert exports.export_inputs(run, budget, fine_tune=True) != before
    _measure_again(run)
    assert exports.export_inputs(run, budget, fine_tune=True) == before


def test_a_device_that_cannot_be_profiled_here_does_not_stop_the_profiles_of_others(run, monkeypatch):
    (cpu,) = run.study.devices
    away = [cpu.model_copy(update={"name": name, "where": "elsewhere"}) for name in ("phone", "pi")]
    other = cpu.model_copy(update={"name": "other"})
    several = Run(run.study.model_copy(update={"devices": (*away, cpu, other)}), run.folder)
    known = profiles.Profile.load(run.profile("cpu"))
    monkeypatch.setattr(profiles, "build_profile", lambda recipe, inputs, parts: known)
    with pytest.raises(DeviceError, match=r"devices\.phone: .*nas device bundle .*; do the same for pi"):
        profile(several)
    assert profiles.Profile.load(run.profile("other")) == known


def test_the_command_that_imports_a_bundle_contains_the_studys_variables(run):
    command = _command(run, "pi", ["DATA=/my data", "TEACHER=t"])
    assert command.endswith(" --set 'DATA=/my data' --set TEACHER=t") and " pi result.json --runs " in command
