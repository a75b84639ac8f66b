"""Archives for devices outside the cluster: they need only numpy and onnxruntime, and their results are validated."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from nas.architecture import Architecture, Layer
from nas.device import Device
from nas.errors import DeviceError
from nas.latency.bundle import Job
from nas.latency.measure import REFERENCE, Texts
from nas.latency.profiling import ProfileRecipe, _artificial_network
from nas.model import CompactBertConfig
from nas.pipeline.devices import _profile_job
from nas.space import SearchSpace

DEVICE = Device(name="pi", where="elsewhere", sequence_length=[8, 16])
REQUIREMENTS = ("numpy", "onnxruntime")
_DEPENDENCIES = ("numpy.libs", "flatbuffers", "google", "packaging", "protobuf", "sympy", "mpmath", "coloredlogs")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has numpy, onnxruntime and their dependencies, and no other packages."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    site = Path(importlib.util.find_spec("numpy").origin).parents[1]
    for name in (*REQUIREMENTS, *_DEPENDENCIES):
        if (site / name).exists():
            (packages / name).symlink_to(site / name)
    python = folder / "bin" / "python"
    lacking = "import importlib.util as u; assert not any(u.find_spec(n) for n in ('torch', 'onnx', 'nas', 'pydantic'))"
    subprocess.run([python, "-I", "-c", lacking], check=True)
    return python


def _job(supernet_weights, config, memory=False):
    space = SearchSpace.load("tiny").model_dump()
    space["dimensions"] |= {"layers": [3], "hidden_size": [32], "num_attention_heads": [4], "intermediate_size": [64]}
    return _profile_job(ProfileRecipe(DEVICE, SearchSpace.model_validate(space), config, 0, memory))


def _measure(job, folder, python):
    job.write(folder / "bundle.zip", "nas device import study.toml pi result.json")
    with zipfile.ZipFile(folder / "bundle.zip") as archive:
        readme = archive.read("README.txt").decode()
        assert "python run.py" in readme and "nas device import study.toml pi result.json" in readme
        archive.extractall(folder)
    done = subprocess.run([python, "-I", "run.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "result.json"


@pytest.mark.slow
def test_a_bundle_is_measured_with_only_numpy_and_onnxruntime(supernet_weights, config, tmp_path, bare_python):
    job = _job(supernet_weights, config, memory=True)
    result = _measure(job, tmp_path, bare_python)
    records, peaks = job.read(result)
    assert {REFERENCE, *records} == {name for networks, _ in job.groups for name in networks}
    for measured in json.loads(result.read_text())["groups"]:
        reference = [sample for samples in measured["samples_ms"][REFERENCE] for sample in samples]
        for name in measured["samples_ms"].keys() & records.keys():
            assert 0.0 < min(reference) <= records[name].reference_ms <= max(reference)
    assert len(peaks) == 6 and all(5 < peak < 2000 for peak in peaks.values())
    assert all(min(record.samples_ms) > 0 for record in records.values())
    assert records["teacher"].environment["runtime"] == "onnxruntime"


@pytest.fixture
def small(supernet_weights):
    return Job(DEVICE, "digest", [({"export": supernet_weights, "teacher": supernet_weights}, 2)], Texts((5, 6, 7)))


@pytest.mark.slow
def test_an_interrupted_program_keeps_its_measurements_when_it_is_started_again(small, tmp_path, bare_python):
    partial = tmp_path / "result.partial.json"
    result = _measure(small, tmp_path, bare_python)
    found = json.loads(result.read_text())
    result.rename(partial)
    found["groups"][0]["drift"] = 0.0123
    partial.write_text(json.dumps(found))
    subprocess.run([bare_python, "-I", "run.py"], cwd=tmp_path, check=True, capture_output=True)
    assert json.loads(result.read_text())["groups"][0]["drift"] == 0.0123


def test_an_archive_is_much_smaller_than_its_networks(tmp_path):
    layers = tuple(Layer(number, 4, 1024) for number in range(2))
    config = CompactBertConfig(attention_head_size=64, vocab_size=2000)
    network = _artificial_network(config, Architecture(hidden_size=256, layers=layers))
    Job(DEVICE, "digest", [({"teacher": network}, 2)], Texts()).write(tmp_path / "bundle.zip", "")
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        assert archive.getinfo("networks.zip").file_size < weights / 25


GOOD = {
    "job": "digest",
    "environment": {"runtime": "onnxruntime", "fingerprint": "0123"},
    "groups": [
        {
            "samples_ms": {"export": [[1.0, 1.1], [2.0, 2.1]], "teacher": [[3.0, 3.1], [4.0, 4.1]]},
            "spread": {"export": 0.1, "teacher": 0.1},
            "drift": 0.01,
            "noisy": False,
            "attempts": 1,
        }
    ],
    "peak_memory_mb": {},
}


def _changed(**group):
    return GOOD | {"groups": [GOOD["groups"][0] | group]}


BAD = {
    "another job": (GOOD | {"job": "other"}, "a different bundle"),
    "a network missing": (_changed(samples_ms={"export": [[1.0], [2.0]]}), "exactly the networks of the bundle"),
    "a network too many": (
        _changed(samples_ms=GOOD["groups"][0]["samples_ms"] | {"more": [[1.0], [1.0]]}),
        "exactly the networks of the bundle, but 'more'",
    ),
    "a network in two groups": (GOOD | {"groups": GOOD["groups"] * 2}, "once, but 'teacher' is repeated"),
    "a length missing": (
        _changed(samples_ms=GOOD["groups"][0]["samples_ms"] | {"export": [[1.0]]}),
        "samples of 2 sequence lengths, and equally many of each",
    ),
    "negative time": (_changed(samples_ms={"export": [[-1.0], [2.0]], "teacher": [[1.0], [1.0]]}), "greater than"),
    "not a number": (_changed(samples_ms={"export": [["1"], [2.0]], "teacher": [[1.0], [1.0]]}), "valid number"),
    "unknown key": (GOOD | {"code": "import os"}, "code: "),
    "key missing": ({key: value for key, value in GOOD.items() if key != "groups"}, "groups: "),
}


def test_a_valid_result_is_read(small, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(GOOD))
    records, peaks = small.read(tmp_path / "result.json")
    assert records["export"].samples_ms == (1.0, 1.1, 2.0, 2.1) and not peaks
    assert records["teacher"].spread == 0.1 and records["teacher"].device == DEVICE


def _group(*names):
    samples = {name: [[1.0], [2.0]] for name in names}
    return {"samples_ms": samples, "spread": dict.fromkeys(names, 0.0), "drift": 0.0, "noisy": False, "attempts": 1}


def test_each_group_must_have_its_reference(supernet_weights, tmp_path):
    networks = {REFERENCE: supernet_weights, "export": supernet_weights, "teacher": supernet_weights}
    job, result = Job(DEVICE, "digest", [(networks, 2)], Texts((5, 6, 7))), tmp_path / "result.json"
    result.write_text(json.dumps(GOOD | {"groups": [_group(REFERENCE, "export"), _group(REFERENCE, "teacher")]}))
    assert job.read(result)[0].keys() == {"export", "teacher"}
    result.write_text(json.dumps(GOOD | {"groups": [_group(REFERENCE, "export"), _group("teacher")]}))
    with pytest.raises(DeviceError, match="its reference"):
        job.read(result)


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_result_is_refused(case, small, tmp_path):
    values, message = BAD[case]
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(DeviceError, match=message) as problem:
        small.read(tmp_path / "result.json")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95", b"[" * 10000, b"null"])
def test_a_file_that_is_not_a_result_is_refused(content, small, tmp_path):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DeviceError, match=r"import the unmodified result\.json"):
        small.read(tmp_path / "result.json")
    with pytest.raises(DeviceError, match="no such file"):
        small.read(tmp_path / "nowhere.json")
