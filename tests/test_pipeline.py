"""The whole path on a tiny task: what it leaves, what it skips, what it refuses."""

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
from nas.latency.runner import onnx_session
from nas.pipeline import Run, export, export_trial, exports, profiles, searches
from nas.pipeline.reports import report
from nas.progress import Stopwatch
from nas.study import Study
from nas.supernet.training import Distillation

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
STEPS = (
    "data", "teacher", "profile-cpu", "supernet", "search", "front", "finalists", "baselines-cpu", "static-cpu",
    "export-large", "export-small",
)  # fmt: skip


@pytest.fixture
def finished(finished_study):
    """A finished run: its study, its root folder, and what the command printed, as output and error."""
    return finished_study, finished_study.parent / "runs", json.loads((finished_study.parent / PRINTED).read_text())


def _verification(runs, budget):
    return json.loads((runs / "tiny" / "exports" / budget / "verification.json").read_text())


def test_run_ends_with_a_table_and_one_json_line(finished):
    _, runs, said = finished
    printed = json.loads(said["output"].splitlines()[-1])
    assert set(printed["exports"]) == {"large", "small"}
    assert set(printed["baselines"]) == {"cpu/teacher", "cpu/teacher-int8", "cpu/static"}
    assert "teacher-int8" in said["output"] and "Traceback" not in said["error"]
    assert (runs / "tiny" / "report.html").is_file()


def test_run_leaves_a_log_and_says_what_its_time_was_spent_on(finished):
    _, runs, said = finished
    events = [json.loads(line) for line in (runs / "tiny" / "log.jsonl").read_text().splitlines()]
    started = [event["step"] for event in events if event["event"] == "started"]
    ended = {event["step"]: event for event in events if event["event"] == "finished"}
    assert set(started) == set(ended) >= {"data", "teacher", "supernet", "search", "front", "export-small"}
    assert sum(event["event"] == "evaluated" for event in events) == 16
    printed = json.loads(said["output"].splitlines()[-1])
    parts = printed["parts"]["search"]
    assert set(parts) == {"start", "driver", "evaluation"}
    assert sum(parts.values()) <= printed["seconds"]["search"] + 0.2
    assert all(name in said["output"] for name in ("Time spent", "evaluation", "total"))


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


def test_front_holds_no_beaten_candidate_and_measured_figures(nas, finished):
    study, runs, _ = finished
    code, output, error = nas("front", str(study), "--runs", str(runs), "--json")
    assert code == 0, error
    found = json.loads(output.splitlines()[-1])
    accuracies = [item["search_accuracy"] for item in found["front"]]
    latencies = [item["predicted_ms"]["cpu"] for item in found["front"]]
    assert accuracies == sorted(accuracies, reverse=True) and latencies == sorted(latencies, reverse=True)
    assert found["outcomes"]["evaluated"] == 16
    written = json.loads((runs / "tiny" / "search" / "front.json").read_text())
    assert set(written["uniform"]) == {"large", "small"} and written["search_examples"] == 200
    assert 0.0 <= sum(written["importance"].values()) <= 1.001
    for items in found["budgets"].values():
        assert any(item["met"] for item in items)


def test_pairs_and_a_regression_of_a_roberta(nas, tmp_path):
    study, runs = write_pair_study(tmp_path / "pairs"), tmp_path / "runs"
    code, output, error = nas("run", str(study), "--runs", str(runs), "--json")
    assert code == 0, error
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


def test_a_second_run_skips_everything_and_a_change_redoes_what_it_concerns(nas, finished, tmp_path):
    changed = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    runs = changed.parent / "runs"
    before = _stamps(runs)
    assert nas("run", str(changed), "--runs", str(runs))[0] == 0
    assert _stamps(runs) == before
    changed.write_text(TINY_STUDY.replace("epochs = 0.5", "epochs = 0.25"))
    assert nas("run", str(changed), "--runs", str(runs))[0] == 0
    after = _stamps(runs)
    assert {name for name in before if before[name] != after[name]} == {"finalists", "export-large", "export-small"}


def test_a_new_budget_is_searched_and_exported(nas, finished, tmp_path):
    changed = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    given = (str(changed), "--runs", str(changed.parent / "runs"), "--json")
    changed.write_text(TINY_STUDY + '[[budgets]]\nname = "mid"\ndevice = "cpu"\np50_ms = "70%"\n')
    plan = json.loads(nas("check", *given)[1].splitlines()[-1])
    assert {step["step"]: step["state"] for step in plan["steps"]}["search"] == "to do"
    code, output, error = nas("export", *given, "--no-fine-tune")
    assert code == 0, error
    exports = json.loads(output.splitlines()[-1])["exports"]
    assert set(exports) == {"large", "small", "mid"} and not exports["mid"]["fine_tuned"]


@pytest.fixture
def copied(finished, tmp_path):
    study, runs, _ = finished
    shutil.copytree(runs, tmp_path / "runs")
    return Run(Study.load(study), tmp_path / "runs" / "tiny")


def test_one_that_misses_its_budget_gives_way_to_the_next_best(copied, monkeypatch):
    verify, seen = exports.verify, []

    def misses_once(folder, budget, *rest):
        found = verify(folder, budget, *rest)
        if budget and budget.name == "large":
            seen.append(found["description"])
            found["met"] = len(seen) > 1
        return found

    monkeypatch.setattr(exports, "verify", misses_once)
    shutil.rmtree(copied.folder / "exports")
    found = export(copied, fine_tune=False)
    assert len(seen) == 2 and seen[0] != seen[1] == found["large"]["description"]


def test_one_candidate_alone_is_exported_by_its_number_or_digest(copied):
    chosen = searches.front(copied)["candidates"][5]
    name = f"trial-{chosen['trial']}"
    found = export_trial(copied, str(chosen["trial"]), fine_tune=False)
    assert found[name]["architecture"] == chosen["architecture"] and found[name]["budget"] is None
    assert found[name]["p50_ms"] > 0 and (copied.export(name) / "onnx" / "model.onnx").exists()
    stamp = (copied.folder / "steps" / f"export-{name}.json").read_bytes()
    assert export_trial(copied, chosen["digest"][:10], fine_tune=False) == found
    assert (copied.folder / "steps" / f"export-{name}.json").read_bytes() == stamp
    assert f"exported as {name}" in report(copied).read_text()
    assert exports.exported(copied) == ["large", "small", name]
    other = copied.study.supernet.model_copy(update={"steps": 31})
    assert exports.exported(Run(copied.study.model_copy(update={"supernet": other}), copied.folder)) == []
    with pytest.raises(ExportError, match="--trial zz: must be the number of one trial"):
        export_trial(copied, "zz")


def test_a_training_that_harms_is_left_out(copied, monkeypatch):
    def harms(training, networks, halving, judge, title):
        for parameter in networks[0].parameters():
            parameter.data.zero_()
        return [{0: 0.0}] * (len(halving.rungs) + 1)

    monkeypatch.setattr(Distillation, "train_cohort", harms)
    shutil.rmtree(copied.finalists)
    chosen = searches.front(copied)["candidates"][0]
    found = export_trial(copied, chosen["digest"])[exports.trial_name(chosen)]
    assert found["fine_tuned"] is False and {value for _, value in found["search_accuracy_in_training"]} == {0.0}
    assert found["search_accuracy"] == found["search_accuracy_inherited"] > 0.0


def test_a_budget_that_all_miss_is_not_exported_and_the_others_are(copied, monkeypatch):
    verify = exports.verify

    def misses(folder, budget, *rest):
        found = verify(folder, budget, *rest)
        return found | {"met": found["met"] and not (budget and budget.name == "small")}

    monkeypatch.setattr(exports, "verify", misses)
    shutil.rmtree(copied.folder / "exports")
    with pytest.raises(ExportError, match=r"budgets\.small: none of the"):
        export(copied, fine_tune=False)
    assert not copied.export("small").exists() and (copied.export("large") / "verification.json").exists()


def test_a_budget_that_nothing_is_predicted_to_meet_says_so(copied, monkeypatch):
    monkeypatch.setattr(exports, "front", lambda run: {"budgets": {"small": []}})
    budget = next(one for one in copied.study.budgets if one.name == "small")
    with pytest.raises(ExportError, match=r"budgets\.small: no candidate is predicted .* raise search\.evaluations or"):
        exports.make_export(copied, Stopwatch(), budget, fine_tune=False)


def test_another_machine_measures_anew(copied, monkeypatch):
    before = {path.stem: path.read_text() for path in (copied.folder / "steps").glob("*.json")}
    monkeypatch.setattr(profiles, "fingerprint", lambda device: "another")
    monkeypatch.setattr(exports, "fingerprint", lambda device: "another")
    export(copied, fine_tune=False)
    after = {path.stem: path.read_text() for path in (copied.folder / "steps").glob("*.json")}
    redone = {name for name in before if before[name] != after[name]}
    assert redone == {"profile-cpu", "front", "baselines-cpu", "static-cpu", "export-large", "export-small"}


def test_check_prints_the_plan_without_doing_anything(nas, tiny_study, tmp_path):
    code, output, _ = nas("check", str(tiny_study), "--runs", str(tmp_path / "runs"), "--json")
    plan = json.loads(output.splitlines()[-1])
    assert code == 0 and plan["architectures"] == 295_704 and "295,704" in output
    assert [step["state"] for step in plan["steps"]] == ["to do"] * len(STEPS)
    assert not (tmp_path / "runs").exists()


def test_check_knows_what_is_done(nas, finished):
    study, runs, _ = finished
    plan = json.loads(nas("check", str(study), "--runs", str(runs), "--json")[1].splitlines()[-1])
    assert {step["step"]: step["state"] for step in plan["steps"]} == dict.fromkeys(STEPS, "done")


def test_infeasible_budget_stops_before_the_supernet_is_trained(nas, finished, tmp_path):
    study = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    supernet = study.parent / "runs" / "tiny" / "supernet"
    shutil.rmtree(supernet)
    study.write_text(TINY_STUDY.replace('"50%"', "0.0001"))
    code, _, error = nas("run", str(study), "--runs", str(study.parent / "runs"))
    last = error.splitlines()[-1]
    assert code == 2
    assert last.startswith("error: budgets.small: the limit of p50_ms on cpu must be at least") and "raise it" in last
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


def test_a_killed_training_ends_with_the_same_weights_and_knows_its_study(nas, finished, tmp_path):
    """kill -9 after the first checkpoint: another study is refused, the same one ends as if nothing had happened."""
    study = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"
    runs = study.parent / "runs"
    straight = load_file(runs / "tiny" / "supernet" / "model.safetensors")
    shutil.rmtree(runs / "tiny" / "supernet")
    checkpoints = runs / "tiny" / "supernet" / "checkpoints"
    assert forked.run("-c", DYING, "train", study, "--runs", runs).returncode == -signal.SIGKILL
    assert (checkpoints / "checkpoint-10" / "complete").exists()
    text = study.read_text()
    study.write_text(text.replace("steps = 30", "steps = 40"))
    code, _, error = nas("train", str(study), "--runs", str(runs))
    assert code == 2 and "supernet.steps = 30, which is 40 now" in error
    assert error.strip().splitlines()[-1].startswith("error: ")
    study.write_text(text)
    assert nas("train", str(study), "--runs", str(runs))[0] == 0
    weights = load_file(runs / "tiny" / "supernet" / "model.safetensors")
    assert weights.keys() == straight.keys()
    for name, tensor in straight.items():
        assert_same(weights[name], tensor, of=name)


def test_two_commands_on_one_run_do_not_meet(finished):
    study, runs, _ = finished
    run = Run(Study.load(study), runs / "tiny")
    with run.locked(), pytest.raises(NasError, match="another nas command"), run.locked():
        pass


def test_a_teacher_of_another_task_is_refused(nas, tiny_study, tmp_path):
    text = TINY_STUDY.replace("fine_tune = { epochs = 2.0, learning_rate = 2e-3 }", "")
    tiny_study.write_text(text.replace('text = ["text"]', 'text = ["text"]\nkind = "regression"\nmetric = "spearman"'))
    code, _, error = nas("train", str(tiny_study), "--runs", str(tmp_path / "runs"))
    said = error.splitlines()[-1]
    assert code == 2 and "with 2 label(s), but a task of kind 'regression' needs regression" in said


def test_the_wheel_carries_spaces_and_the_quickstart(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("compact_bert_nas-*.whl"))).namelist())
    assert {"nas/search_spaces/minilm-l6.toml", "nas/search_spaces/bert-base.toml"} <= names
    assert {"nas/studies/quickstart/study.toml", "nas/cli/steps.py", "nas/py.typed"} <= names
    assert {"nas/report/page.css", "nas/report/page.js", "nas/report/templates/page.html"} <= names
    assert not any(name.startswith(("tests/", "runs/")) for name in names)


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


def test_every_kind_of_choice_goes_the_whole_way(nas, finished, tmp_path):
    study = shutil.copytree(finished[0].parent, tmp_path / "tiny") / "study.toml"  # with its teacher
    runs = study.parent / "runs"
    (study.parent / "mixed.toml").write_text(MIXED)
    text = study.read_text().replace('name = "tiny"', 'name = "mixed.toml"')
    text = text.replace("sequence_length = 32\nrepeats = 8", 'sequence_length = "task"\nwarm_up = 1\nrepeats = 2')
    # Budgets that none misses: the seed alone draws the candidates. Some networks are about as large as is allowed, so
    # that the supernet's training finds networks near the budgets soon.
    text = text.replace('p50_ms = "80%"', 'expected_ms = "900%"\nworst_ms = "900%"\nsize_mb = 0.1')
    text = text.replace('p50_ms = "50%"', "size_mb = 0.1").replace("[search]", '[search]\nsampler = "random"')
    study.write_text(text)
    code, _, error = nas("run", str(study), "--runs", str(runs))
    assert code == 0, error
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
