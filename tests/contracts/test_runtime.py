"""Every runtime runs sub-networks and chains of blocks, and can be measured in a separate process."""

from __future__ import annotations

from importlib.util import find_spec
from shutil import which

import numpy as np
import pytest
import torch
from tiny import TEACHERS
from tolerance import assert_same
from torch._dynamo.utils import counters

from nas.architecture import Layer, compress_all
from nas.device import Device
from nas.errors import DeviceError
from nas.latency.measure import Texts, item_of, measure
from nas.latency.networks import BlockChain, load_network, write_network
from nas.runtimes import RUNTIMES, FileRuntime, check_runtime
from nas.supernet import BertSupernet

RUNTIME = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(each.module) is None, reason=f"{name} is not installed"))
        for name, each in RUNTIMES.items()
    ],
)


def _inputs():
    ids = np.random.default_rng(0).integers(4, 90, (2, 8))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@RUNTIME
@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_runs_a_whole_sub_network(name, supernet_weights, tmp_path):
    """Inputs that the network lacks are ignored."""
    device = Device(name="cpu", runtime=name)
    write_network(supernet_weights, device, tmp_path / "network")
    output = load_network(tmp_path / "network", device, [_inputs()])[0]()
    logits = output[0] if isinstance(output, list) else output.logits
    assert logits.shape == (2, 3)
    if isinstance(RUNTIMES[name], FileRuntime):  # other files hold no weights, because weights do not affect latency
        names = supernet_weights.config.input_names
        with torch.no_grad():
            assert_same(logits, supernet_weights(**{each: torch.tensor(_inputs()[each]) for each in names}).logits)


@RUNTIME
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("attention", Layer(0, 2, 24)),
        ("feed_forward", Layer(0, 2, 24)),
        ("attention", Layer(0, 2, 24, attention="low_rank(4)")),
        ("attention", Layer(0, 2, 24, keep_tokens=99)),
    ],
)
def test_runs_chains_of_blocks(name, kind, layer, first_only, config, tmp_path):
    if first_only and layer.keep_tokens:
        pytest.skip("the last attention drops no tokens")
    device = Device(name="cpu", runtime=name)
    write_network((BlockChain(kind, layer, 3, first_only), config), device, tmp_path / "network")
    hidden = np.random.default_rng(0).standard_normal((2, 8, 32), dtype=np.float32)
    inputs = dict.fromkeys(("hidden", "hidden_1", "hidden_2"), hidden)
    inputs["attention_mask"] = np.ones((2, 8), dtype=np.int64)
    output = load_network(tmp_path / "network", device, [inputs])[0]()
    found = np.asarray(output[0] if isinstance(output, list) else output)
    assert found.shape == (2, 1 if first_only else 8, 32) and not np.array_equal(found, hidden[:, : found.shape[1]])


@RUNTIME
def test_a_measurement_records_samples_percentiles_and_conditions(name, supernet_weights, config):
    device = Device(name="cpu", runtime=name, sequence_length=[4, 8])
    chain = (BlockChain("attention", Layer(0, 2, 8), 2), config)
    records = measure(device, {"model": supernet_weights, "chain": chain}, rounds=3, title="Testing")
    for record in records.values():
        assert len(record.samples_ms) >= 6 and min(record.samples_ms) > 0
        assert record.p50_ms <= record.p95_ms and record.device == device
        assert record.environment["runtime"] == name and record.environment["runtime_version"]
        assert record.to_json()["p50_ms"] == pytest.approx(record.p50_ms, abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="PyTorch compiles for the CPU with g++")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_networks_are_compiled_once_for_each_length(supernet_weights, space, tmp_path):
    """PyTorch compiles them if the device is configured so. They are measured like other networks."""
    device = Device(name="cpu", runtime="torch", compiled=True, sequence_length=[4, 8])
    model = BertSupernet(supernet_weights).extract(space.smallest())
    item = item_of(device, "network", model, tmp_path / "network", Texts(vocab_size=90), {})
    fed = [{"input_ids": np.asarray(every["input_ids"]["values"])} for every in item["inputs"]]
    torch.compiler.reset()
    counters.clear()
    for run in 2 * load_network(tmp_path / "network", device, fed):
        assert run().logits.shape == (1, 3)
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
    record = measure(device, {"model": model}, rounds=2, title="Testing")["model"]
    assert len(record.by_length()) == 2 and min(record.samples_ms) > 0


@RUNTIME
def test_each_network_is_fed_texts_of_its_own_lengths(name, supernet_weights, tmp_path):
    """One network is fed 4 tokens, one 40 tokens, and one both lengths equally often."""
    networks = {"short": supernet_weights, "long": supernet_weights, "both": supernet_weights}
    device, tokens = Device(name="cpu", runtime=name, sequence_length=[4, 40]), {"short": 4, "long": 40}
    for network, lengths in {"short": {4}, "long": {40}, "both": {4, 40}}.items():
        item = item_of(device, network, supernet_weights, tmp_path / network, Texts(vocab_size=90), tokens)
        assert {len(text) for fed in item["inputs"] for text in fed["input_ids"]["values"]} == lengths
    records = measure(device, networks, rounds=2, title="Testing", tokens=tokens)
    assert records["both"].device.lengths == (4, 40)
    assert len(records["both"].samples_ms) % 2 == 0 and all(record.samples_ms for record in records.values())


def test_a_network_that_cannot_run_raises_a_device_error(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(DeviceError, match="measuring with onnxruntime on cpu failed"):
        measure(Device(name="cpu"), {"broken": broken}, rounds=1, title="Testing")


def test_a_runtime_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="pip install onnxruntime"):
        check_runtime(Device(name="cpu"))


def test_onnxruntime_runs_int8_networks(supernet_weights, space, tmp_path):
    model = BertSupernet(supernet_weights).extract(compress_all(space.largest(), "int8"))
    device = Device(name="cpu")
    write_network(model, device, tmp_path / "network")
    one = {name: values[:1] for name, values in _inputs().items()}  # a batch is quantised together
    (served,) = load_network(tmp_path / "network", device, [one])[0]()
    with torch.no_grad():
        assert_same(served, model(**{name: torch.tensor(values) for name, values in one.items()}).logits, "int8")
