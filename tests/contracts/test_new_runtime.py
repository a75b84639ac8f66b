"""A new runtime needs only a class and an entry in the registry."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from datasets import Dataset
from reference_runtime import Reference
from tiny import make_tokenizer

from nas import doctor
from nas.architecture import Layer
from nas.compression import compression, eight_bit_method
from nas.device import Device
from nas.errors import StudyError
from nas.export.artefact import ONNX_FILE, served_files, write_artefact
from nas.export.verification import Artefact, verify
from nas.latency.measure import Texts, measure_peak_memory
from nas.runtimes import RUNTIMES, runner
from nas.study import Study
from nas.supernet import BertSupernet
from nas.tasks import ClassMetric


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "reference", Reference())


@pytest.fixture
def device():
    return Device(name="cpu", runtime="reference", sequence_length=8, repeats=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processor": "cuda"}, "reference is supported only on the cpu"),
        ({"number_format": "bfloat16"}, "reference on cpu supports only float32, but got 'bfloat16'"),
        ({"compiled": True}, "only torch compiles networks, but the runtime is 'reference'"),
        ({"where": "elsewhere"}, "runtime: must be onnxruntime if where = 'elsewhere', but got 'reference'"),
        ({"runtime": "tflite"}, "'onnxruntime', 'torch', 'openvino' or 'reference'"),
    ],
)
def test_device_settings_that_it_does_not_support_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Device(**{"name": "cpu", "runtime": "reference", **settings})


def test_the_compression_methods_that_it_executes_follow_from_its_operations():
    executed = {"none": True, "low_rank(4)": True, "skip": True, "sparse(0.5)": True}
    executed |= {"sparse(0.5)+int8": False, "int8": False, "static_int8": False, "int4": False}
    assert executed == {spec: compression(spec).runs_on("reference", "cpu") for spec in executed}
    assert compression("sparse(0.5)").runtimes == ["onnxruntime", "reference"]
    assert eight_bit_method("reference") is None


def test_a_study_with_methods_that_it_does_not_execute_is_refused(tiny_study):
    tiny_study.write_text(tiny_study.read_text().replace('name = "cpu"', 'name = "cpu"\nruntime = "reference"'))
    with pytest.raises(
        StudyError, match="'reference' cannot run the compression method 'int8', which runs only on onnxruntime"
    ):
        Study.load(tiny_study)


def test_nas_doctor_checks_it():
    (found,) = (finding for finding in doctor._runtimes() if finding.name.startswith("reference"))
    assert (found.state, found.detail) == ("ok", onnx.__version__)


def test_it_runs_the_networks_of_the_contract_suite(supernet_weights, config, tmp_path):
    suite = runpy.run_path(str(Path(__file__).with_name("test_runtime.py")))
    suite["test_runs_a_whole_sub_network"]("reference", supernet_weights, tmp_path)
    for kind in ("attention", "feed_forward"):
        suite["test_runs_chains_of_blocks"]("reference", kind, Layer(0, 2, 24), False, config, tmp_path)


def test_an_export_is_verified_with_its_own_file(device, space, supernet_weights, tmp_path):
    folder = tmp_path / "export"
    write_artefact(BertSupernet(supernet_weights).extract(space.smallest()), make_tokenizer(), folder, ["reference"])
    own_file = folder / "network.reference"
    assert served_files(folder, "reference") == [own_file] and Artefact(folder, device).network() == own_file
    assert served_files(folder, "onnxruntime") == [folder / ONNX_FILE]
    rows = np.random.default_rng(0).integers(5, 60, (20, 8)).tolist()
    test = {"input_ids": rows, "token_type_ids": [[0] * 8] * 20, "length": [8] * 20, "labels": [0, 1] * 10}
    texts, metric = Texts(vocab_size=90), ClassMetric("accuracy")
    found = verify(folder, None, {device: None}, Dataset.from_dict(test), metric, texts)
    assert found["agrees"] is True and found["size_mb"] == own_file.stat().st_size / 1e6
    assert found["p50_ms"] > 0 and found["latency"]["device"]["runtime"] == "reference"
    assert found["environment"]["runtime_version"] == onnx.__version__
    assert 5 < measure_peak_memory(device, {"export": own_file}, texts)["export"] < 1000


def test_its_version_is_part_of_the_conditions(device):
    found = runner.environment(device.model_dump(mode="json"), Reference.module)
    assert (found["runtime"], found["runtime_version"]) == ("reference", onnx.__version__)
