"""Studies whose teacher and data are on the hub: what is refused, what a run keeps, and what it is built again from."""

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
from nas.pipeline.prepare import data_inputs, teacher_inputs
from nas.study import Study

TUNED = "fine_tune = { epochs = 2.0, learning_rate = 2e-3 }\n"


@pytest.fixture
def filled(hub, tmp_path):
    fill_hub(hub, tmp_path / "uploaded")
    return hub


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.toml").write_text(HUB_STUDY.replace(TUNED, ""))
    return folder / "study.toml"


@pytest.fixture
def check(nas, study, tmp_path):
    """`nas check`: the exit code, the plan, and what was said."""

    def call():
        snapshots.forget()
        code, output, error = nas("check", str(study), "--runs", str(tmp_path / "runs"), "--json")
        return code, json.loads(output.splitlines()[-1]) if code == 0 else None, error

    return call


def _run(study, tmp_path):
    snapshots.forget()
    return Run.of(Study.load(study), tmp_path / "runs")


def _edit(study, old, new):
    text = study.read_text()
    assert old in text
    study.write_text(text.replace(old, new))


def _weights(hub, repository, add):
    """The files of a teacher whose weights are all `add` larger."""
    from safetensors.torch import load, save

    files = dict(hub.repositories[repository].commits[hub.repositories[repository].refs["main"]])
    tensors = {name: tensor + add for name, tensor in load(files["model.safetensors"]).items()}
    return files | {"model.safetensors": save(tensors, metadata={"format": "pt"})}


def test_check_names_the_commits_and_loads_neither_weights_nor_rows(filled, check):
    code, found, error = check()
    assert code == 0 and error == ""
    teacher, data = (filled.repositories[key].refs["main"][:7] for key in filled.repositories)
    assert found["teacher"] == f"someone/bert at {teacher}" and found["task"].endswith(f"someone/words at {data}")
    assert not any("/large/" in request for request in filled.requests)


MODEL, DATA = ("model", "someone/bert"), ("dataset", "someone/words")
REFUSED = {
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
    "a file as data set": ('"someone/words"', '"./words.csv"', "task.hub: ./words.csv: is not a hub id"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_hub_has_not_is_refused_by_check(case, filled, study, check):
    old, new, words = REFUSED[case]
    _edit(study, old, new)
    code, _, error = check()
    assert code == 2 and error.count("\n") == 1 and error.startswith("error: ") and words in error, error
    assert not (study.parents[1] / "runs").exists()


def _take(repository, name):
    files = repository.commits[repository.refs["main"]]
    repository.commit({path: data for path, data in files.items() if not path.startswith(name)})


def _close(repository):
    repository.gated = True
    repository.commit({"README.md": "# Words\n"} | repository.commits[repository.refs["main"]])


CLOSED = {
    "gated model": (MODEL, lambda it: setattr(it, "gated", True), "someone/bert: is gated; accept its terms at"),
    "gated data": (DATA, _close, "someone/words: is gated; accept its terms at"),
    "private model": (
        MODEL,
        lambda it: setattr(it, "private", True),
        "no such model or it is private; correct the id, or log in",
    ),
    "no safetensors": (MODEL, lambda it: _take(it, "model.safetensors"), "has no model.safetensors"),
    "no tokenizer": (MODEL, lambda it: _take(it, "tokenizer.json"), "has no tokenizer; add its tokenizer.json"),
    "loading script": (DATA, lambda it: it.commit({"words.py": "1"}), "needs its loading script words.py"),
    "no rows": (DATA, lambda it: it.commit({"a.md": "1"}), "is not made of tables"),
}


@pytest.mark.parametrize("case", CLOSED)
def test_what_the_hub_does_not_give_is_refused_by_check(case, filled, check):
    key, change, words = CLOSED[case]
    change(filled.repositories[key])
    code, _, error = check()
    assert code == 2 and error.count("\n") == 1 and words in error, error
    assert "snapshots/" not in error and key[1] in error


def test_a_revision_belongs_to_the_hub(tiny_study, nas, tmp_path):
    text = tiny_study.read_text()
    for old, words in (
        ("[teacher]", "teacher.revision: 'v1' is for a hub model, but"),
        ("[task]", "revision: 'v1' is only for hub data sets"),
    ):
        tiny_study.write_text(text.replace(old, f'{old}\nrevision = "v1"'))
        code, _, error = nas("check", str(tiny_study), "--runs", str(tmp_path / "runs"))
        assert code == 2 and error.count("\n") == 1 and words in error and "remove " in error


def test_a_run_stays_at_the_commits_that_it_was_begun_with(filled, study, tmp_path, check, capsys):
    run = _run(study, tmp_path)
    prepare_teacher(run)
    first = {key: filled.repositories[key].refs["main"] for key in (MODEL, DATA)}
    noted = json.loads(run.snapshots.read_text())
    assert {kind: note["commit"] for kind, note in noted.items()} == {kind: first[kind, name] for kind, name in first}
    source = json.loads((run.teacher / "source.json").read_text())
    about = {"model": "someone/bert", "commit": first[MODEL], "fine_tuned_here": False}
    served = {"served_as": {"problem_type": "single_label_classification"}}
    assert source == about | served | {"outputs": {"mean": 0.0, "deviation": 1.0}}
    made = (run.teacher / "model.safetensors").read_bytes()

    second = filled.repositories[MODEL].commit(_weights(filled, MODEL, 1.0))
    run = _run(study, tmp_path)
    capsys.readouterr()
    prepare_teacher(run)
    assert f"is at {second[:7]} now; this run stays at commit {first[MODEL][:7]}" in capsys.readouterr().err
    assert (run.teacher / "model.safetensors").read_bytes() == made
    _, found, error = check()
    assert found["steps"][0]["state"] == "done" and f'set teacher.revision = "{second}"' in error

    _edit(study, "[teacher]", f'[teacher]\nrevision = "{first[MODEL]}"')  # the same snapshot, now said
    _, found, error = check()
    assert found["steps"][0]["state"] == "done" and error == ""
    _edit(study, first[MODEL], second)
    found = check()[1]
    assert found["steps"][0]["state"] == "to do"
    run = _run(study, tmp_path)
    prepare_teacher(run)
    assert (run.teacher / "model.safetensors").read_bytes() != made
    assert json.loads(run.snapshots.read_text())["model"]["commit"] == second


def test_another_snapshot_of_the_data_is_read_anew(filled, study, tmp_path):
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
    code, found, _ = check()
    assert code == 0 and found["steps"][0]["state"] == "done"


def test_offline_what_was_downloaded_serves_a_new_run(filled, study, tmp_path, monkeypatch, capsys):
    prepare_teacher(_run(study, tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    capsys.readouterr()
    prepare_teacher(_run(study, tmp_path / "other"))
    commit = filled.repositories[DATA].refs["main"][:7]
    said = capsys.readouterr().err
    assert f"someone/words: HF_HUB_OFFLINE is set; using {commit}, the last commit that was seen" in said
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(Exception, match="HF_HUB_OFFLINE is set, and it was not downloaded before"):
        prepare_teacher(_run(study, tmp_path / "third"))


def test_before_there_are_data_the_newest_snapshot_is_taken(filled, study, tmp_path):
    broken = filled.repositories[DATA].commit(
        {f"data/{name}-00000-of-00001.parquet": b"x" for name in ("train", "test")}
    )
    run = _run(study, tmp_path)
    with pytest.raises(Exception, match=rf"someone/words at {broken[:7]}/data/train"):
        prepare_teacher(run)
    fill_hub(filled, tmp_path / "again")
    assert len(prepare_teacher(_run(study, tmp_path)).test) == 200


def test_another_process_finds_the_hub_by_its_environment(filled, study, tmp_path):
    settings = {"HF_ENDPOINT": filled.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | settings
    command = [sys.executable, "-m", "nas.cli", "check", str(study), "--runs", str(tmp_path / "runs"), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"someone/bert at {filled.repositories[MODEL].refs['main'][:7]}" in done.stdout
    assert (tmp_path / "home" / "hub").is_dir()


def test_doctor_looks_at_the_hub(filled, study, nas):
    code, output, _ = nas("doctor", str(study), "--json")
    found = {finding["name"]: finding for finding in json.loads(output.splitlines()[-1])["findings"]}
    assert code == 0 and found["teacher"]["state"] == found["data"]["state"] == "ok"
    filled.repositories.clear()
    code, output, _ = nas("doctor", str(study), "--json")
    assert code == 2 and json.loads(output.splitlines()[-1])["missing"] == ["teacher", "data"]
