"""The end-to-end pipeline on a tiny task: its results, the steps that a second run skips, and what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import forked
import numpy as np
import pytest
import simulated
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tiny import PRINTED, TEACHER_TABLE, TINY_STUDY, write_pair_study
from tolerance import assert_same
from transformers import AutoModelForSequenceClassification, AutoTokenizer, RobertaForSequenceClassification

from nas.architecture import Architecture
from nas.data import TaskData
from nas.device import Device
from nas.errors import ExportError, NasError
from nas.export.verification import Artefact
from nas.pipeline import Run, export, export_trial, exports, profiles, searches
from nas.pipeline.reports import report
from nas.progress import Stopwatch
from nas.runtimes.runner import onnx_session
from nas.study import Study
from nas.supernet.training import Distillation

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
STEPS = (
    "data", "teacher", "profile-cpu", "supernet", "search", "front", "finalists", "baselines-cpu", "static-cpu",
    "export-large", "export-small",
)  # fmt: skip


@pytest.fixture
def finished(finished_study, simulated_times):
    """Return the study file of a finished run, the folder of runs, and what the command printed (output and error)."""
    return finished_study, finished_study.parent / "runs", json.loads((finished_study.parent / PRINTED).read_text())


def _verification(runs, budget):
    return json.loads((runs / "tiny" / "exports" / budget / "verification.json").read_text())


def test_run_prints_a_table_and_ends_with_one_json_line(finished):
    _, runs, console = finished
    printed = json.loads(console["output"].splitlines()[-1])
    assert set(printed["exports"]) == {"large", "small"}
    assert set(printed["baselines"]) == {"cpu/teacher", "cpu/teacher-int8", "cpu/static"}
    assert "teacher-int8" in console["output"] and "Traceback" not in console["error"]
    assert (runs / "tiny" / "report.html").is_file()


def test_run_writes_a_log_and_prints_how_its_time_was_spent(finished):
    _, runs, console = finished
    events = [json.loads(line) for line in (runs / "tiny" / "log.jsonl").read_text().splitlines()]
    started = [event["step"] for event in events if event["event"] == "started"]
    ended = {event["step"]: event for event in events if event["event"] == "finished"}
    assert set(started) == set(ended) >= {"data", "teacher", "supernet", "search", "front", "export-small"}
    assert sum(event["event"] == "evaluated" for event in events) == 16
    printed = json.loads(console["output"].splitlines()[-1])
    parts = printed["parts"]["search"]
    assert set(parts) == {"start", "driver", "evaluation"}
    assert sum(parts.values()) <= printed["seconds"]["search"] + 0.2
    assert all(name in console["output"] for name in ("Time spent", "evaluation", "total"))


def test_every_export_is_verified_and_meets_its_budget(finished):
    _, runs, _ = finished
    for budget, share in (("large", 0.8), ("small", 0.5)):
        found = _verification(runs, budget)
        assert found["met"] is True and found["p50_ms"] <= share * found["teacher_p50_ms"]
        before, after = found["search_accuracy_inherited"], found["search_accuracy_in_training"][-1][1]
        assert found["search_accuracy"] == pytest.approx(after if found["fine_tuned"] else before)
        assert found["p95_ms"] >= found["p50_ms"] > 0
        assert found["test_examples"] == 200 and 0 <= found["accuracy"] <= 1
        assert found["agreement_with_hugging_face"] >= 0.98
        assert found["environment"]["runtime"] == "onnxruntime"
        folder = runs / "tiny" / "exports" / budget
        assert found["size_mb"] == (folder / "onnx" / "model.onnx").stat().st_size / 1e6


def test_exports_load_and_give_the_reported_accuracy(finished):
    _, runs, _ = finished
    data = TaskData.load(runs / "tiny" / "data")
    for budget in ("large", "small"):
        folder, found = runs / "tiny" / "exports" / budget, _verification(runs, budget)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            assert model(**tokenizer("w1 w2 w3", return_tensors="pt")).logits.shape == (1, 2)
        assert model.num_parameters() == found["params"]
        architecture = Architecture.from_json(json.loads((folder / "architecture.json").read_text()))
        assert architecture == Architecture.from_json(found["architecture"])
        (result,) = ModelCard.load(folder / "README.md").data.eval_results
        assert result.metric_value == round(found["accuracy"], 4)
        logits = Artefact(folder, Device(name="cpu", sequence_length=32)).logits(data.test)
        assert (logits.argmax(1) == np.asarray(data.test["labels"])).mean() == pytest.approx(found["accuracy"])


def test_the_front_has_no_dominated_candidate_and_every_budget_is_met(nas, finished):
    study, runs, _ = finished
    output, _ = nas("front", study, "--runs", runs, "--json")
    found = json.loads(output.splitlines()[-1])
    accuracies = [item["search_accuracy"] for item in found["front"]]
    latencies = [item["predicted_ms"]["cpu"] for item in found["front"]]
    assert accuracies == sorted(accuracies, reverse=True) and latencies == sorted(latencies, reverse=True)
    assert found["outcomes"]["evaluated"] == 16
    written = json.loads((runs / "tiny" / "search" / "front.json").read_text())
    assert set(written["uniform"]) == {"large", "small"} and written["search_examples"] == 200
    assert {"layers", "hidden_size", "embedding", "attention_0", "feed_forward_2"} < written["importance"].keys()
    for items in found["budgets"].values():
        assert any(item["met"] for item in items)


def test_a_roberta_regression_over_pairs_runs_end_to_end(nas, tmp_path):
    """The latencies are measured. No network is slower than the teacher by so much that it misses the budget."""
    study, runs = write_pair_study(tmp_path / "pairs"), tmp_path / "runs"
    study.write_text(study.read_text().replace('"80%"', '"150%"'))
    output, _ = nas("run", study, "--runs", runs, "--json")
    found = json.loads(output.splitlines()[-1])["exports"]["only"]
    assert found["metric"] == "spearman" and found["met"] is True and found["agreement_with_hugging_face"] is None
    assert found["teacher_accuracy"] > 0.8 and found["accuracy"] > 0.5
    run = runs / "pairs"
    for folder in (run / "baselines" / "cpu" / "teacher", run / "exports" / "only"):
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        session, served, simulated = onnx_session(folder / "onnx" / "model.onnx", 1), [], []
        for pair in (("w1 w2", "w7"), ("w3", "w5"), ("w0 w4", "w9 w1"), ("w8", "w2 w6 w6"), ("w5 w5 w5", "w1")):
            served.append(session.run(None, dict(tokenizer(*pair, return_tensors="np")))[0][0])
            with torch.no_grad():
                simulated.append(model(**tokenizer(*pair, return_tensors="pt")).logits[0].numpy())
        assert_same(served, simulated, "float32" if folder.name == "teacher" else "int8")
    baseline = AutoModelForSequenceClassification.from_pretrained(run / "baselines" / "cpu" / "teacher")
    assert type(baseline) is RobertaForSequenceClassification


def _stamps(runs):
    return {path.stem: json.loads(path.read_text())["finished"] for path in (runs / "tiny" / "steps").glob("*.json")}


def test_a_second_run_skips_all_steps_and_a_changed_setting_repeats_some(nas, finished, tmp_path):
    changed = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    runs = changed.parent / "runs"
    before = _stamps(runs)
    nas("run", changed, "--runs", runs)
    assert _stamps(runs) == before
    changed.write_text(TINY_STUDY.replace("epochs = 0.5", "epochs = 0.25"))
    nas("run", changed, "--runs", runs)
    after = _stamps(runs)
    assert {name for name in before if before[name] != after[name]} == {"finalists", "export-large", "export-small"}


def test_a_new_budget_is_searched_and_exported(nas, finished, tmp_path):
    changed = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    given = (str(changed), "--runs", str(changed.parent / "runs"), "--json")
    changed.write_text(TINY_STUDY + '[[budgets]]\nname = "mid"\ndevice = "cpu"\np50_ms = "70%"\n')
    plan = json.loads(nas("check", *given)[0].splitlines()[-1])
    assert {step["step"]: step["state"] for step in plan["steps"]}["search"] == "to do"
    output, _ = nas("export", *given, "--no-fine-tune")
    exports = json.loads(output.splitlines()[-1])["exports"]
    assert set(exports) == {"large", "small", "mid"} and not exports["mid"]["fine_tuned"]


@pytest.fixture
def copied_run(finished, tmp_path):
    study, runs, _ = finished
    shutil.copytree(runs, tmp_path / "runs")
    return Run(Study.load(study), tmp_path / "runs" / "tiny")


def test_a_network_that_misses_its_budget_is_replaced_by_the_next_best(copied_run, monkeypatch):
    verify, seen = exports.verify, []

    def misses_once(folder, budget, *rest):
        found = verify(folder, budget, *rest)
        if budget and budget.name == "large":
            seen.append(found["description"])
            found["met"] = len(seen) > 1
        return found

    monkeypatch.setattr(exports, "verify", misses_once)
    shutil.rmtree(copied_run.folder / "exports")
    found = export(copied_run, fine_tune=False)
    assert len(seen) == 2 and seen[0] != seen[1] == found["large"]["description"]


def test_a_single_candidate_is_exported_by_its_trial_number_or_digest(copied_run):
    chosen = searches.front(copied_run)["candidates"][5]
    name = f"trial-{chosen['trial']}"
    found = export_trial(copied_run, str(chosen["trial"]), fine_tune=False)
    assert found[name]["architecture"] == chosen["architecture"] and found[name]["budget"] is None
    assert found[name]["p50_ms"] > 0 and (copied_run.export(name) / "onnx" / "model.onnx").exists()
    stamp = (copied_run.folder / "steps" / f"export-{name}.json").read_bytes()
    assert export_trial(copied_run, chosen["digest"][:10], fine_tune=False) == found
    assert (copied_run.folder / "steps" / f"export-{name}.json").read_bytes() == stamp
    assert f"exported as {name}" in report(copied_run).read_text()
    assert exports.exported(copied_run) == ["large", "small", name]
    other = copied_run.study.supernet.model_copy(update={"steps": 31})
    assert exports.exported(Run(copied_run.study.model_copy(update={"supernet": other}), copied_run.folder)) == []
    with pytest.raises(ExportError, match="--trial zz: must be the trial number of a candidate"):
        export_trial(copied_run, "zz")


def test_inherited_weights_are_exported_if_the_final_training_makes_them_worse(copied_run, monkeypatch):
    def harms(training, networks, halving, judge, title):
        for parameter in networks[0].parameters():
            parameter.data.zero_()
        return [{0: 0.0}] * (len(halving.rungs) + 1)

    monkeypatch.setattr(Distillation, "train_cohort", harms)
    shutil.rmtree(copied_run.finalists)
    chosen = searches.front(copied_run)["candidates"][0]
    found = export_trial(copied_run, chosen["digest"])[exports.trial_name(chosen)]
    assert found["fine_tuned"] is False and {value for _, value in found["search_accuracy_in_training"]} == {0.0}
    assert found["search_accuracy"] == found["search_accuracy_inherited"] > 0.0


def test_a_missed_budget_does_not_prevent_the_export_of_the_others(copied_run, monkeypatch):
    verify = exports.verify

    def misses(folder, budget, *rest):
        found = verify(folder, budget, *rest)
        return found | {"met": found["met"] and not (budget and budget.name == "small")}

    monkeypatch.setattr(exports, "verify", misses)
    shutil.rmtree(copied_run.folder / "exports")
    with pytest.raises(ExportError, match=r"budgets\.small: none of the"):
        export(copied_run, fine_tune=False)
    assert not copied_run.export("small").exists() and (copied_run.export("large") / "verification.json").exists()


def test_a_budget_that_no_candidate_is_predicted_to_meet_is_an_error(copied_run, monkeypatch):
    monkeypatch.setattr(exports, "front", lambda run: {"budgets": {"small": []}})
    budget = next(one for one in copied_run.study.budgets if one.name == "small")
    with pytest.raises(
        ExportError, match=r"budgets\.small: no candidate is predicted .* raise search\.evaluations, or"
    ):
        exports.make_export(copied_run, Stopwatch(), budget, fine_tune=False)


def test_another_machine_repeats_the_steps_that_depend_on_measurements(copied_run, monkeypatch):
    """The other machine takes twice as long."""
    before = {path.stem: path.read_text() for path in (copied_run.folder / "steps").glob("*.json")}
    monkeypatch.setattr(profiles, "fingerprint", lambda device: "another")
    monkeypatch.setattr(exports, "fingerprint", lambda device: "another")
    monkeypatch.setattr(simulated, "MS_PER_BYTE_AND_TOKEN", 2 * simulated.MS_PER_BYTE_AND_TOKEN)
    export(copied_run, fine_tune=False)
    after = {path.stem: path.read_text() for path in (copied_run.folder / "steps").glob("*.json")}
    redone = {name for name in before if before[name] != after[name]}
    assert redone == {"profile-cpu", "front", "baselines-cpu", "static-cpu", "export-large", "export-small"}


def test_check_prints_the_plan_and_writes_nothing(nas, tiny_study, tmp_path):
    output, _ = nas("check", tiny_study, "--runs", tmp_path / "runs", "--json")
    plan = json.loads(output.splitlines()[-1])
    assert plan["architectures"] == 295_704 and "295,704" in output
    assert [step["state"] for step in plan["steps"]] == ["to do"] * len(STEPS)
    assert not (tmp_path / "runs").exists()


def test_check_shows_that_all_steps_of_a_finished_run_are_done(nas, finished):
    study, runs, _ = finished
    plan = json.loads(nas("check", study, "--runs", runs, "--json")[0].splitlines()[-1])
    assert {step["step"]: step["state"] for step in plan["steps"]} == dict.fromkeys(STEPS, "done")


def test_an_infeasible_budget_is_refused_before_the_supernet_is_trained(nas, finished, tmp_path):
    study = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    supernet = study.parent / "runs" / "tiny" / "supernet"
    shutil.rmtree(supernet)
    study.write_text(TINY_STUDY.replace('"50%"', "0.0001"))
    _, error = nas("run", study, "--runs", study.parent / "runs", code=2)
    last = error.splitlines()[-1]
    assert (
        last.startswith("error: budgets.small: the limit of p50_ms on cpu must be at least")
        and "raise the limit" in last
    )
    assert not supernet.exists()


DYING = """
import os, signal
from nas.cli import main
from nas.supernet import loops

def die_after(checkpoint, model, mark_complete=loops.mark_complete):
    mark_complete(checkpoint, model)
    if checkpoint.name == "checkpoint-10" and "supernet" in checkpoint.parts:
        os.kill(os.getpid(), signal.SIGKILL)

loops.mark_complete = die_after
main()
"""


def test_a_killed_training_resumes_to_the_same_weights_and_refuses_other_settings(nas, finished, tmp_path):
    """The training is killed by SIGKILL after its first checkpoint."""
    study = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    runs = study.parent / "runs"
    straight = load_file(runs / "tiny" / "supernet" / "model.safetensors")
    shutil.rmtree(runs / "tiny" / "supernet")
    checkpoints = runs / "tiny" / "supernet" / "checkpoints"
    assert forked.run("-c", DYING, "train", study, "--runs", runs).returncode == -signal.SIGKILL
    assert (checkpoints / "checkpoint-10" / "complete").exists()
    text = study.read_text()
    study.write_text(text.replace("steps = 30", "steps = 40"))
    _, error = nas("train", study, "--runs", runs, code=2)
    assert "supernet.steps = 30, which is 40 now" in error
    assert error.strip().splitlines()[-1].startswith("error: ")
    study.write_text(text)
    nas("train", study, "--runs", runs)
    weights = load_file(runs / "tiny" / "supernet" / "model.safetensors")
    assert weights.keys() == straight.keys()
    for name, tensor in straight.items():
        assert_same(weights[name], tensor, of=name)


def test_a_second_command_on_the_same_run_is_refused(finished):
    study, runs, _ = finished
    run = Run(Study.load(study), runs / "tiny")
    with run.locked(), pytest.raises(NasError, match="another nas command"), run.locked():
        pass


def test_a_teacher_of_another_task_is_refused(nas, tiny_study, tmp_path):
    text = TINY_STUDY.replace("fine_tune = { epochs = 2.0, learning_rate = 2e-3 }", "")
    tiny_study.write_text(text.replace('text = ["text"]', 'text = ["text"]\nkind = "regression"\nmetric = "spearman"'))
    _, error = nas("train", tiny_study, "--runs", tmp_path / "runs", code=2)
    last = error.splitlines()[-1]
    assert "with 2 labels, but a task of kind 'regression' needs regression" in last


FROM_A_WHEEL = """
import sys
from pathlib import Path
import nas
from nas.cli import main
from nas.proposal import space_text
from nas.space import SearchSpace

assert Path(nas.__file__).is_relative_to(Path.cwd()), nas.__file__
for name in ("minilm-l6", "bert-base"):
    space_text(SearchSpace.load(name).teacher, ["onnxruntime"])
_, study, runs, empty = sys.argv
for arguments in (("check", "quickstart", "--runs", empty), ("report", study, "--runs", runs)):
    sys.argv = ["nas", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, arguments
"""


def test_an_unpacked_wheel_can_check_the_quick_start_and_write_a_report(finished, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(next(tmp_path.glob("compact_bert_nas-*.whl"))) as wheel:
        wheel.extractall(unpacked)
    assert not (unpacked / "tests").exists() and not (unpacked / "runs").exists()
    assert (unpacked / "nas" / "py.typed").is_file(), "type checkers need it"
    study = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    page = study.parent / "runs" / "tiny" / "report.html"
    page.unlink()
    command = [sys.executable, "-c", FROM_A_WHEEL, str(study), str(study.parent / "runs"), str(tmp_path / "empty")]
    done = subprocess.run(command, cwd=unpacked, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert page.is_file() and "quickstart" in done.stdout


MIXED = f"""
name = "mixed"
{TEACHER_TABLE}[dimensions]
layers = [2, 3]
hidden_size = [24, 32]
num_attention_heads = [2, 4]
intermediate_size = [24, 64]
keep_tokens = [4, 6]
exit_threshold = [0.7, 0.9]
[compression]
embedding = ["none", "low_rank(8)+int8"]
attention = ["none", "int8", "share", "skip"]
feed_forward = ["none", "int4", "sparse(0.5)", "low_rank(6)"]
"""


STATIC = f"""
name = "static"
{TEACHER_TABLE}[dimensions]
layers = [3]
hidden_size = [32]
num_attention_heads = [2, 4]
intermediate_size = [64]
[compression]
embedding = ["none", "static_int8"]
attention = ["none", "static_int8", "static_int8(mean)"]
feed_forward = ["none", "static_int8", "static_int8(mean)"]
"""


def test_networks_for_openvino_are_calibrated_when_they_are_exported(nas, finished, tmp_path):
    pytest.importorskip("openvino")
    study = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"  # with its teacher
    runs = study.parent / "runs"
    (study.parent / "static.toml").write_text(STATIC)
    text = study.read_text().replace('name = "tiny"', 'name = "static.toml"')
    text = text.replace("sequence_length = 32\nrepeats = 8", 'runtime = "openvino"\nsequence_length = 32\nrepeats = 2')
    text = text.replace('p50_ms = "80%"', "size_mb = 2.0").replace('p50_ms = "50%"', "size_mb = 2.0")
    study.write_text(text.replace("[search]", '[search]\nsampler = "random"'))
    nas("run", study, "--runs", runs)
    run = runs / "tiny"
    static = next(
        candidate
        for candidate in json.loads((run / "search" / "front.json").read_text())["candidates"]
        if "static_int8" in {layer["attention"] for layer in candidate["architecture"]["layers"]}
    )
    name, command = f"trial-{static['trial']}", ("export", str(study), "--runs", str(runs), "--no-fine-tune")
    nas(*command, "--trial", static["trial"])
    linears = {"attention": 4, "feed_forward": 2}
    for folder in (run / "baselines" / "cpu" / "teacher-int8", run / "exports" / name):
        found = json.loads((folder / "verification.json").read_text())
        assert found["met"] is True and found["agreement_with_hugging_face"] >= 0.98
        assert json.loads((folder / "config.json").read_text())["calibrated"] is True
        layers = json.loads((folder / "architecture.json").read_text())["layers"]
        expected = sum(linears[block] * layer[block].startswith("static") for layer in layers for block in linears)
        ranges = [value for key, value in load_file(folder / "model.safetensors").items() if "input_range" in key]
        assert len(ranges) == expected > 0 and all(low < 0 < high for low, high in ranges)
    assert "quantised with calibrated ranges" in (run / "exports" / name / "README.md").read_text()


def test_compression_methods_dropped_tokens_and_early_exits_run_end_to_end(nas, finished, tmp_path):
    study = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"  # with its teacher
    runs = study.parent / "runs"
    (study.parent / "mixed.toml").write_text(MIXED)
    text = study.read_text().replace('name = "tiny"', 'name = "mixed.toml"')
    text = text.replace("sequence_length = 32\nrepeats = 8", 'sequence_length = "task"\nwarm_up = 1\nrepeats = 2')
    # No network misses these budgets, so only the seed determines the candidates. Some networks are about as large as
    # the budgets allow, so the supernet's training quickly finds networks near the budgets.
    text = text.replace('p50_ms = "80%"', 'expected_ms = "900%"\nworst_ms = "900%"\nsize_mb = 0.1')
    text = text.replace('p50_ms = "50%"', "size_mb = 0.1").replace("[search]", '[search]\nsampler = "random"')
    study.write_text(text)
    nas("run", study, "--runs", runs)
    for budget in ("large", "small"):
        found = _verification(runs, budget)
        assert found["met"] is True and found["agreement_with_hugging_face"] >= 0.98
        assert found["worst_ms"] > 0 and found["expected_ms"] > 0
        assert bool(found.get("exits")) == bool(found["architecture"].get("exit_threshold"))
    assert len(found["latency"]["device"]["sequence_length"]) == 8
    front = json.loads((runs / "tiny" / "search" / "front.json").read_text())
    choices = {
        choice for item in front["candidates"] for layer in item["architecture"]["layers"] for choice in layer.values()
    }
    assert {"int8", "share", "skip", "int4", "sparse(0.5)", "low_rank(6)"} <= choices
    assert any(item.get("exits") for item in front["candidates"])
