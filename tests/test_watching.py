"""Trainings report their steps to the integrations that the study names and to the callbacks of the program."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny import SPECIAL, WORDS, make_rows, make_teacher, make_tokenizer
from transformers import TrainerCallback
from transformers.integrations.integration_utils import is_tensorboard_available

import nas
from nas.errors import StudyError
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.sources import teacher_inputs
from nas.supernet.loops import Schedule, training_arguments


class _Counting(TrainerCallback):
    def __init__(self):
        self.steps, self.losses, self.ended = 0, [], 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.losses += [logs["loss"]] if "loss" in logs else []

    def on_train_end(self, args, state, control, **kwargs):
        self.ended += 1


def _run(tmp_path, name="mine", **training):
    torch.manual_seed(0)
    model = make_teacher(vocab_size=len(SPECIAL + WORDS))
    task = {"train": make_rows(400, 0), "test": make_rows(60, 1), "text": "text", "holdout": {"size": 80}}
    teacher = {"model": model, "tokenizer": make_tokenizer(), "fine_tune": {"epochs": 1.0, "batch_size": 8}}
    return nas.run_of(name, runs=tmp_path, task=task, teacher=teacher, budgets=["50%"], training=training)


def test_callbacks_are_called_during_a_training_but_not_if_it_is_already_done(tmp_path):
    counting, run = _Counting(), _run(tmp_path)
    assert run.add_callback(counting) is run
    prepare_teacher(run)
    assert counting.steps == 40 and counting.ended == 1 and counting.losses
    prepare_teacher(run)
    assert counting.ended == 1
    assert any((run.teacher / "tensorboard").glob("events.*")) == is_tensorboard_available()


def test_reports_can_be_switched_off_without_training_the_teacher_again(tmp_path):
    before = teacher_inputs(_run(tmp_path))
    run = _run(tmp_path, report_to=[])
    prepare_teacher(run)
    assert not (run.teacher / "tensorboard").exists() and teacher_inputs(run) == before


def test_trainings_that_are_only_timed_report_nothing(config, tmp_path):
    found = training_arguments(config, tmp_path / "study" / "supernet", Schedule(1e-3, 8, steps=3), 0)
    assert found.report_to == [] and found.run_name == "study/supernet"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_an_integration_that_is_not_installed_is_refused_before_the_training(tmp_path, name, monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr("nas.pipeline.watching.find_spec", lambda module: None if module == name else known(module))
    with pytest.raises(
        StudyError, match=f"^training.report_to: {name} is not installed; run pip install {name}, or remove {name} from"
    ):
        prepare_teacher(_run(tmp_path, report_to=[name]))
    with pytest.raises(StudyError, match=r"training\.report_to\.0: "):
        _run(tmp_path, "other", report_to=["paper"])


@pytest.mark.filterwarnings("ignore")
def test_each_training_is_a_run_of_weights_and_biases(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("first", "second"):
        prepare_teacher(_run(tmp_path / "runs", name, report_to=["wandb"]))
        assert wandb.run is None
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


@pytest.mark.filterwarnings("ignore")
def test_each_training_is_a_run_of_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    for name in ("first", "second"):
        prepare_teacher(_run(tmp_path / "runs", name, report_to=["mlflow"]))
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert {run.info.run_name for run in found} == {"first/teacher", "second/teacher"}
    assert all(run.data.metrics["loss"] > 0 for run in found)
