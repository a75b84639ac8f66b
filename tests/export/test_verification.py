"""Verification of exports: the agreement of the served file with the Hugging Face folder, and the stored metric."""

from __future__ import annotations

import json
import random
import re
import shutil

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import f1_score
from tiny import make_tokenizer

from nas.device import Device
from nas.export.artefact import ONNX_FILE, VERIFICATION_FILE, write_artefact
from nas.export.verification import Artefact, _agrees, verify
from nas.latency.measure import NO_TEXTS
from nas.study import Task
from nas.supernet import BertSupernet
from nas.tasks import ClassMetric, task_kind


@pytest.fixture
def test_set():
    rng = random.Random(0)
    rows = [[2, *(rng.randint(5, 60) for _ in range(6)), 3] for _ in range(60)]
    columns = {"input_ids": rows, "token_type_ids": [[0] * 8] * 60, "length": [8] * 60, "labels": [0, 1, 2] * 20}
    return Dataset.from_dict(columns)


def test_a_served_file_that_disagrees_with_its_folder_is_reported(space, supernet_weights, test_set, tmp_path, capsys):
    supernet = BertSupernet(supernet_weights)
    for name, architecture in (("export", space.largest()), ("other", space.smallest())):
        write_artefact(supernet.extract(architecture), make_tokenizer(), tmp_path / name)
    device = Device(name="phone", where="elsewhere", sequence_length=8)  # nothing is timed
    found = verify(tmp_path / "export", None, {device: None}, test_set, ClassMetric("accuracy"), NO_TEXTS)
    assert found["agrees"] is True and "same answer" not in capsys.readouterr().err
    shutil.copy(tmp_path / "other" / ONNX_FILE, tmp_path / "export" / ONNX_FILE)
    found = verify(tmp_path / "export", None, {device: None}, test_set, ClassMetric("accuracy"), NO_TEXTS)
    assert found["agrees"] is False and found["agreement_with_hugging_face"] < 0.9
    assert json.loads((tmp_path / "export" / VERIFICATION_FILE).read_text())["agrees"] is False
    message = f"export: on device phone .* same answer for only {found['agreement_with_hugging_face']:.1%} of the texts"
    assert re.search(message, capsys.readouterr().err)


def test_the_metric_is_stored_with_its_class_and_standard_error(space, supernet_weights, test_set, tmp_path):
    write_artefact(BertSupernet(supernet_weights).extract(space.smallest()), make_tokenizer(), tmp_path / "export")
    device = Device(name="phone", where="elsewhere", sequence_length=8)
    task = Task(train="a.csv", test="b.csv", text=("text",), metric="f1", positive="b")
    metric = task_kind("classification").metric(task, ("a", "b", "c"))
    found = verify(tmp_path / "export", None, {device: None}, test_set, metric, NO_TEXTS)
    predictions = Artefact(tmp_path / "export", device).logits(test_set).argmax(axis=1)
    assert found["metric"] == "f1 of 'b'"
    assert found["accuracy"] == f1_score(test_set["labels"], predictions, labels=[1], average="macro", zero_division=0)
    drawn = np.random.default_rng(1).integers(0, 60, (2000, 60))  # texts that are drawn with replacement
    is_b, predicted_b = np.asarray(test_set["labels"])[drawn] == 1, predictions[drawn] == 1
    f1 = 2 * (is_b & predicted_b).sum(axis=1) / (is_b.sum(axis=1) + predicted_b.sum(axis=1))
    assert 0.0 < found["accuracy_standard_error"] == pytest.approx(f1.std(), rel=0.3)


@pytest.mark.parametrize(
    ("runtime", "names"),
    [("onnxruntime", ["onnx/model.onnx"]), ("openvino", ["openvino_model.xml", "openvino_model.bin"])],
)
def test_the_digests_of_an_export_cover_the_files_that_its_device_serves(tmp_path, runtime, names):
    """A bundle with an export is identified by these digests, so they must not be the same for every export."""
    (tmp_path / "onnx").mkdir()
    for name in ("onnx/model.onnx", "openvino_model.xml", "openvino_model.bin"):
        (tmp_path / name).write_text(name)
    export = Artefact(tmp_path, Device(name="cpu", runtime=runtime))
    before = export.digests
    assert len(before) == len(names)
    for name in names:
        (tmp_path / name).write_text("another network")
        assert export.digests != before
        before = export.digests


@pytest.mark.parametrize(
    ("differ", "texts", "batch", "agrees"),
    [
        (2, 50, 1, True),
        (3, 50, 1, False),
        (8, 872, 1, True),
        (9, 872, 1, False),
        (100, 10_000, 1, True),
        (101, 10_000, 1, False),
        (9, 50, 4, None),
        (None, 50, 1, None),
    ],
)
def test_one_answer_in_a_hundred_may_differ_and_two_in_any_case(differ, texts, batch, agrees):
    agreement = None if differ is None else 1.0 - differ / texts
    assert _agrees(agreement, texts, Device(name="cpu", batch_size=batch)) is agrees
