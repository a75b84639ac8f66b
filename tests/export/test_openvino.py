"""Exports for OpenVINO contain a file in OpenVINO's own format, and this file is verified."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import make_tokenizer
from tolerance import assert_same

from nas.device import Device
from nas.export.artefact import write_artefact
from nas.export.verification import Artefact
from nas.runtimes import runtime_of
from nas.runtimes.open_vino import OPENVINO_FILE
from nas.supernet import BertSupernet

pytest.importorskip("openvino")


def test_the_openvino_file_gives_the_same_answers_and_is_the_one_that_is_measured(space, supernet_weights, tmp_path):
    model = BertSupernet(supernet_weights).extract(space.excluding(("int8",)).sample(random.Random(1)))
    folder = tmp_path / "export"
    write_artefact(model, make_tokenizer(), folder, ["openvino"])
    rows = [[2, *range(5, 5 + length), 3] for length in (3, 3, 7)]
    types = [[0] * len(row) for row in rows]
    columns = {"input_ids": rows, "token_type_ids": types, "length": [len(row) for row in rows]}
    artefact = Artefact(folder, Device(name="cpu", runtime="openvino", sequence_length=8))
    for row, logits in zip(rows, artefact.logits(Dataset.from_dict(columns)), strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([row]), torch.ones(1, len(row)), torch.zeros(1, len(row), dtype=torch.long))
        assert_same(logits, expected.logits[0])
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert artefact.size_mb > 4e-6 * numbers
    assert artefact.network() == folder / OPENVINO_FILE
    ids = np.array([rows[0]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (logits,) = runtime_of(artefact.device).load(artefact.network(), artefact.device, [inputs])[0]()
    assert logits.shape == (1, 3)


def test_exports_for_other_runtimes_have_no_openvino_file(space, supernet_weights, tmp_path):
    model = BertSupernet(supernet_weights).extract(space.smallest())
    write_artefact(model, make_tokenizer(), tmp_path / "export", ["onnxruntime", "torch"])
    assert not (tmp_path / "export" / OPENVINO_FILE).exists()
