"""Measurement workers on this machine and on Ray nodes, and what they do if a node is lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from nas.device import Device
from nas.errors import ClusterError, DeviceError
from nas.latency.measure import NO_TEXTS, Texts, conditions, item_of, measure, measure_peak_memory
from nas.latency.networks import write_network
from nas.latency.workers import open_worker
from nas.space import SearchSpace
from nas.supernet import BertSupernet

NODE = {"num_cpus": 1, "resources": {"pi": 1}}
DEVICE = Device(name="pi", where="ray", sequence_length=[4, 8])


@pytest.fixture(scope="module")
def started():
    """A cluster of a head and a node that is the device."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    found.add_node(**NODE)
    yield found
    found.shutdown()


@pytest.fixture
def cluster(started, monkeypatch):
    """The cluster that workers connect to. Each test must leave it with one node that is the device."""
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    yield started
    ray.shutdown()


@pytest.mark.slow
def test_networks_are_measured_on_a_node_of_a_cluster(cluster, supernet_weights):
    records = measure(DEVICE, {"model": supernet_weights}, rounds=2, title="Testing")
    assert len(records["model"].samples_ms) >= 8 and records["model"].device == DEVICE
    here = Device(name="pi", sequence_length=[4, 8])
    assert records["model"].environment == conditions(here) == conditions(DEVICE)
    (peak,) = measure_peak_memory(DEVICE, {"model": supernet_weights}, NO_TEXTS).values()
    assert 5 < peak < 2000


@pytest.mark.slow
def test_files_with_the_same_name_are_not_confused(cluster, supernet_weights, tmp_path):
    """The files of an export and of the teacher are both named model.onnx."""
    space = SearchSpace.load("tiny")
    files = {}
    for name, architecture in (("small", space.smallest()), ("large", space.largest())):
        files[name] = tmp_path / name / "model.onnx"
        files[name].parent.mkdir()
        model = BertSupernet(supernet_weights).extract(architecture)
        write_network(model, DEVICE, files[name])
    device = DEVICE.model_copy(update={"batch_size": 64, "sequence_length": 32})
    found = measure(device, files, rounds=4, title="Testing", texts=Texts(vocab_size=90))
    assert found["large"].p50_ms > 1.5 * found["small"].p50_ms
    assert all(path.exists() for path in files.values())


@pytest.mark.slow
def test_a_worker_waits_for_a_lost_node_and_measures_again(cluster, supernet_weights, monkeypatch, capsys):
    """The worker reports the loss and what it waits for. When the node is back, the networks are measured again."""
    monkeypatch.setattr("nas.latency.ray_worker._WAIT_TIMEOUT_S", 1.0)
    (node,) = cluster.worker_nodes
    with open_worker(DEVICE) as worker, ThreadPoolExecutor(1) as pool:
        item = item_of(DEVICE, "model", supernet_weights, worker.folder / "model", NO_TEXTS, {})
        (raylet,) = node.all_processes["raylet"]
        keepers = psutil.Process(raylet.process.pid).children(recursive=True)
        cluster.remove_node(node, allow_graceful=False)
        psutil.wait_procs(keepers)  # they may outlive their node for a moment
        waiting = pool.submit(worker.measure, {"networks": [item], "rounds": 2}, lambda done: None)
        messages = ""
        while "waiting for a Ray node" not in (messages := messages + capsys.readouterr().err):
            assert not waiting.done()
            time.sleep(0.2)
        cluster.add_node(**NODE)  # in the main thread, because Ray sets signal handlers
        found = waiting.result(timeout=120)
    assert sum(map(len, found["samples_ms"]["model"])) >= 8
    assert "its node or process was lost" in messages and f"offers the resource '{DEVICE.name}'" in messages


@pytest.mark.slow
def test_another_machine_under_the_same_name_is_refused(cluster, supernet_weights):
    with open_worker(DEVICE) as worker:
        item = item_of(DEVICE, "model", supernet_weights, worker.folder / "model", NO_TEXTS, {})
        ray.kill(worker._actor)
        worker.environment = worker.environment | {"fingerprint": "another"}
        with pytest.raises(DeviceError, match=r"a different machine .* before another"):
            worker.measure({"networks": [item], "rounds": 2}, lambda done: None)


@pytest.mark.slow
def test_an_error_on_a_node_is_reported(cluster, supernet_weights):
    device = DEVICE.model_copy(update={"pin_to": (9999,)})
    with pytest.raises(DeviceError, match="pin_to must name cores"):
        measure(device, {"model": supernet_weights}, rounds=2, title="Testing")


def test_a_device_outside_the_cluster_has_no_worker():
    with pytest.raises(DeviceError, match="nas device bundle"):
        open_worker(Device(name="pi", where="elsewhere"))


def test_a_missing_cluster_is_an_error(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterError, match="none was found"):
        open_worker(DEVICE)
