"""Studies with a teacher and data on the hub: errors, the commits that a run uses, and work without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants
from tiny import HUB_STUDY, as_parquet, fill_hub, make_rows

from nas.pipeline import Run, snapshots
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.sources import data_inputs, teacher_inputs
from nas.study import Study

FINE_TUNING = "fine_tune = { epochs = 2.0, learning_rate = 2e-3 }\n"


@pytest.fixture
def filled(hub, tmp_path):
    fill_hub(hub, tmp_path / "uploaded")
    return hub


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.toml").write_text(HUB_STUDY.replace(FINE_TUNING, ""))
    return folder / "study.toml"


@pytest.fixture
def check(nas, study, tmp_path):
    """Run `nas check`. Return the plan, or None if the exit code is not 0, and standard error."""

    def call(code=0):
        snapshots.forget()
        output, error = nas("check", study, "--runs", tmp_path / "runs", "--json", code=code)
        return None if code else json.loads(output.splitlines()[-1]), error

    return call


def _run(study, tmp_path):
    snapshots.forget()
    return Run.of(Study.load(study), tmp_path / "runs")


def _edit(study, old, new):
    text = study.read_text()
    assert old in text
    study.write_text(text.replace(old, new))


def _with_other_weights(hub, repository, add):
    """Return the files of a teacher with `add` added to all weights."""
    from safetensors.torch import load, save

    files = dict(hub.repositories[repository].commits[hub.repositories[repository].refs["main"]])
    tensors = {name: tensor + add for name, tensor in load(files["model.safetensors"]).items()}
    return files | {"model.safetensors": save(tensors, metadata={"format": "pt"})}


def test_check_names_the_commits_and_loads_neither_weights_nor_rows(filled, check):
    found, error = check()
    assert error == ""
    teacher, data = (filled.repositories[key].refs["main"][:7] for key in filled.repositories)
    assert found["teacher"] == f"someone/bert at {teacher}" and found["task"].endswith(f"someone/words at {data}")
    assert not any("/large/" in request for request in filled.requests)


MODEL, DATA = ("model", "someone/bert"), ("dataset", "someone/words")
MISSING = {
    "no such model": (
        '"someone/bert"',
        '"someone/nobody"',
        "teacher.model: someone/nobody: is not a folder next to the",
    ),
    "no such folder": (
        '"someone/bert"',
        '"models/bert-base/best"',
        "teacher.model: models/bert-base/best: is not a hub id",
    ),
    "no such data set": ('"someone/words"', '"someone/none"', "task.hub: someone/none: the hub has no such data set"),
    "no such split": ('test = "test"', 'test = "validation"', "no split 'validation'; use one of train, test"),
    "no such configuration": (
        'train = "train"',
        'train = "train"\nconfig = "x"',
        "has no configuration 'x'; remove it",
    ),
    "no such revision": (
        "[teacher]",
        '[teacher]\nrevision = "v1"',
        "has no branch, tag or commit 'v1'; use one of main",
    ),
    "no such revision of the data": ("[task]", '[task]\nrevision = "v1"', "task.revision: someone/words has no branch"),
    "a file instead of a data set": ('"someone/words"', '"./words.csv"', "task.hub: ./words.csv: is not a hub id"),
}


@pytest.mark.parametrize("case", MISSING)
def test_check_refuses_what_does_not_exist_on_the_hub(case, filled, study, check):
    old, new, words = MISSING[case]
    _edit(study, old, new)
    _, error = check(code=2)
    assert error.count("\n") == 1 and error.startswith("error: ") and words in error, error
    assert not (study.parents[1] / "runs").exists()


def _remove(repository, name):
    files = repository.commits[repository.refs["main"]]
    repository.commit({path: data for path, data in files.items() if not path.startswith(name)})


def _make_gated(repository):
    repository.gated = True
    repository.commit({"README.md": "# Words\n"} | repository.commits[repository.refs["main"]])


UNUSABLE = {
    "gated model": (
        MODEL,
        lambda hosted: setattr(hosted, "gated", True),
        "someone/bert: is gated; accept its terms at",
    ),
    "gated data": (DATA, _make_gated, "someone/words: is gated; accept its terms at"),
    "private model": (
        MODEL,
        lambda hosted: setattr(hosted, "private", True),
        "no such model or it is private; correct the id, or log in",
    ),
    "no safetensors": (MODEL, lambda hosted: _remove(hosted, "model.safetensors"), "has no model.safetensors"),
    "no tokenizer": (
        MODEL,
        lambda hosted: _remove(hosted, "tokenizer.json"),
        "has no tokenizer; add its tokenizer.json",
    ),
    "loading script": (DATA, lambda hosted: hosted.commit({"words.py": "1"}), "needs its loading script words.py"),
    "no tables": (DATA, lambda hosted: hosted.commit({"a.md": "1"}), "does not consist of tables"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_check_refuses_repositories_that_cannot_be_used(case, filled, check):
    key, change, words = UNUSABLE[case]
    change(filled.repositories[key])
    _, error = check(code=2)
    assert error.count("\n") == 1 and words in error, error
    assert "snapshots/" not in error and key[1] in error


def test_a_revision_is_refused_for_local_files(tiny_study, nas, tmp_path):
    text = tiny_study.read_text()
    for old, words in (
        ("[teacher]", "teacher.revision: is 'v1', but only hub models have revisions"),
        ("[task]", "revision: is 'v1', but only hub data sets have one"),
    ):
        tiny_study.write_text(text.replace(old, f'{old}\nrevision = "v1"'))
        _, error = nas("check", tiny_study, "--runs", tmp_path / "runs", code=2)
        assert error.count("\n") == 1 and words in error and "remove " in error


def test_a_run_keeps_its_commits_until_the_study_names_others(filled, study, tmp_path, check, capsys):
    run = _run(study, tmp_path)
    prepare_teacher(run)
    first = {key: filled.repositories[key].refs["main"] for key in (MODEL, DATA)}
    noted = json.loads(run.snapshots.read_text())
    assert {kind: note["commit"] for kind, note in noted.items()} == {kind: first[kind, name] for kind, name in first}
    source = json.loads((run.teacher / "source.json").read_text())
    origin = {"model": "someone/bert", "commit": first[MODEL], "fine_tuned_here": False}
    served = {"served_as": {"problem_type": "single_label_classification"}}
    assert source == origin | served | {"outputs": {"mean": 0.0, "deviation": 1.0}}
    weights = (run.teacher / "model.safetensors").read_bytes()

    second = filled.repositories[MODEL].commit(_with_other_weights(filled, MODEL, 1.0))
    run = _run(study, tmp_path)
    capsys.readouterr()
    prepare_teacher(run)
    assert f"is at {second[:7]} now; this run stays at commit {first[MODEL][:7]}" in capsys.readouterr().err
    assert (run.teacher / "model.safetensors").read_bytes() == weights
    found, error = check()
    assert found["steps"][0]["state"] == "done" and f'set teacher.revision = "{second}"' in error

    _edit(study, "[teacher]", f'[teacher]\nrevision = "{first[MODEL]}"')  # the same commit, now named by the study
    found, error = check()
    assert found["steps"][0]["state"] == "done" and error == ""
    _edit(study, first[MODEL], second)
    found, _ = check()
    assert found["steps"][0]["state"] == "to do"
    run = _run(study, tmp_path)
    prepare_teacher(run)
    assert (run.teacher / "model.safetensors").read_bytes() != weights
    assert json.loads(run.snapshots.read_text())["model"]["commit"] == second


def test_the_data_is_read_again_if_the_study_names_another_revision(filled, study, tmp_path):
    filled.repositories[DATA].tag("v1", filled.repositories[DATA].refs["main"])
    run = _run(study, tmp_path)
    before = prepare_teacher(run).test["input_ids"][:]
    rows = {
        f"data/{name}-00000-of-00001.parquet": as_parquet(make_rows(300, 5 + at))
        for at, name in enumerate(["train", "test"])
    }
    filled.repositories[DATA].commit(rows)
    assert prepare_teacher(_run(study, tmp_path)).test["input_ids"][:] == before
    _edit(study, "[task]", '[task]\nrevision = "main"')
    after = prepare_teacher(_run(study, tmp_path)).test["input_ids"][:]
    assert len(after) == 300
    _edit(study, 'revision = "main"', 'revision = "v1"')
    assert prepare_teacher(_run(study, tmp_path)).test["input_ids"][:] == before


def test_a_run_that_is_up_to_date_needs_neither_network_nor_cache(filled, study, tmp_path, check, capsys):
    prepare_teacher(_run(study, tmp_path))
    filled.stop()
    shutil.rmtree(constants.HF_HUB_CACHE)
    run = _run(study, tmp_path)
    inputs = data_inputs(run), teacher_inputs(run)
    capsys.readouterr()
    prepare_teacher(run)
    commit = filled.repositories[MODEL].refs["main"][:7]
    assert (
        f"cannot be reached ([Errno 111] Connection refused); this run stays at commit {commit}"
        in capsys.readouterr().err
    )
    assert (data_inputs(run), teacher_inputs(run)) == inputs
    found, _ = check()
    assert found["steps"][0]["state"] == "done"


def test_offline_a_new_run_uses_the_commits_that_were_downloaded_before(filled, study, tmp_path, monkeypatch, capsys):
    prepare_teacher(_run(study, tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    capsys.readouterr()
    prepare_teacher(_run(study, tmp_path / "other"))
    commit = filled.repositories[DATA].refs["main"][:7]
    error = capsys.readouterr().err
    assert f"someone/words: HF_HUB_OFFLINE is set; using commit {commit}, the last one that the hub returned" in error
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(Exception, match="HF_HUB_OFFLINE is set, and the model was not downloaded before"):
        prepare_teacher(_run(study, tmp_path / "third"))


def test_a_run_without_data_uses_the_newest_commit(filled, study, tmp_path):
    broken = filled.repositories[DATA].commit(
        {f"data/{name}-00000-of-00001.parquet": b"x" for name in ("train", "test")}
    )
    run = _run(study, tmp_path)
    with pytest.raises(Exception, match=rf"someone/words at {broken[:7]}/data/train"):
        prepare_teacher(run)
    fill_hub(filled, tmp_path / "again")
    assert len(prepare_teacher(_run(study, tmp_path)).test) == 200


def test_a_new_process_finds_the_hub_through_environment_variables(filled, study, tmp_path):
    settings = {"HF_ENDPOINT": filled.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | settings
    command = [sys.executable, "-m", "nas.cli", "check", str(study), "--runs", str(tmp_path / "runs"), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"someone/bert at {filled.repositories[MODEL].refs['main'][:7]}" in done.stdout
    assert (tmp_path / "home" / "hub").is_dir()


def test_doctor_reports_whether_the_teacher_and_the_data_are_on_the_hub(filled, study, nas):
    output, _ = nas("doctor", study, "--json")
    found = {finding["name"]: finding for finding in json.loads(output.splitlines()[-1])["findings"]}
    assert found["teacher"]["state"] == found["data"]["state"] == "ok"
    filled.repositories.clear()
    output, _ = nas("doctor", study, "--json", code=2)
    assert json.loads(output.splitlines()[-1])["missing"] == ["teacher", "data"]
