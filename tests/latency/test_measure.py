"""Measurement of several groups of networks: ratios to the teacher are right even if the machine's speed changes."""

from __future__ import annotations

import json
import sys

import pytest

from nas.device import Device
from nas.export.verification import Artefact, Reference, served_networks
from nas.latency.bundle import Job
from nas.latency.measure import GROUP, Texts, measure, on_one_scale
from nas.latency.record import LatencyRecord, pooled

DEVICE = Device(name="pi", where="elsewhere", sequence_length=[4, 8])
TEACHER_MS = 10.0


class _SlowingWorker:
    """A machine that takes twice as long in each further group. The latency of a network follows from its name."""

    environment = {"fingerprint": "0123"}

    def __init__(self, folder):
        self.folder, self.groups = folder, []

    def measure(self, group, progress):
        names = [item["name"] for item in group["networks"]]
        slower = 2.0 ** len(self.groups)
        self.groups.append(names)
        samples = {name: [[slower * _latency_ms(name) * noise for noise in (1.0, 1.1)]] * 2 for name in names}
        return {"samples_ms": samples, "spread": dict.fromkeys(names, 0.1), "drift": 0.0, "noisy": len(names) < 5}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def _latency_ms(name):
    return TEACHER_MS if name == "teacher" else 1.0 + int(name) / 10


@pytest.fixture
def worker(monkeypatch, tmp_path):
    found = _SlowingWorker(tmp_path)
    monkeypatch.setattr(sys.modules[measure.__module__], "open_worker", lambda device: found)
    return found


def _networks(count, folder):
    names = ["teacher", *map(str, range(count))]
    return {name: folder / f"{name}.onnx" for name in names}


@pytest.mark.parametrize(("count", "groups"), [(3, 1), (GROUP, 1), (GROUP + 1, 2), (2 * GROUP + 3, 3)])
def test_each_group_has_the_teacher_and_ratios_to_it_are_right(worker, tmp_path, count, groups):
    records = measure(DEVICE, _networks(count, tmp_path), 2, "Testing", Texts(vocab_size=9))
    assert len(worker.groups) == groups and all(names[0] == "teacher" for names in worker.groups)
    assert list(records) == ["teacher", *map(str, range(count))]
    for name, record in records.items():
        assert record.p50_ms / records["teacher"].p50_ms == pytest.approx(_latency_ms(name) / TEACHER_MS)
    assert len(records["teacher"].samples_ms) == 4 * groups


def test_the_records_of_a_single_group_are_not_scaled(worker, tmp_path):
    records = measure(DEVICE, _networks(2, tmp_path), 2, "Testing", Texts(vocab_size=9))
    assert records["1"].samples_ms == (1.1, 1.1 * 1.1, 1.1, 1.1 * 1.1)


def test_the_groups_of_an_imported_result_are_put_on_one_scale(tmp_path):
    networks = _networks(GROUP + 2, tmp_path)
    worker, groups = _SlowingWorker(tmp_path), []
    for start in (0, GROUP):
        names = ["teacher", *map(str, range(start, min(start + GROUP, GROUP + 2)))]
        groups.append(worker.measure({"networks": [{"name": name} for name in names]}, None) | {"attempts": 1})
    values = {"job": "digest", "environment": worker.environment, "groups": groups, "peak_memory_mb": {}}
    (tmp_path / "result.json").write_text(json.dumps(values))
    records, _ = Job(DEVICE, "digest", [(networks, 2)], Texts(vocab_size=9)).read(tmp_path / "result.json")
    assert records.keys() == networks.keys()
    for name, record in records.items():
        assert record.p50_ms / records["teacher"].p50_ms == pytest.approx(_latency_ms(name) / TEACHER_MS)


def test_pooling_keeps_the_samples_of_each_length_together():
    first, second = (
        LatencyRecord(samples, DEVICE, {}, "now", spread=spread, noisy=spread > 0.1)
        for samples, spread in (((1.0, 2.0, 10.0, 20.0), 0.1), ((3.0, 4.0, 30.0, 40.0), 0.2))
    )
    found = pooled([first, second])
    assert found.by_length().tolist() == [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]
    assert found.spread == 0.2 and found.noisy
    assert on_one_scale([{"a": first}], "a") == {"a": first}


def test_the_teacher_is_the_reference_when_an_export_is_measured(tmp_path):
    for name in ("export", "teacher"):
        (tmp_path / name).mkdir()
    artefact = Artefact(tmp_path / "export", Device(name="cpu"))
    assert list(served_networks(artefact, Reference(tmp_path / "teacher", 0.9), ())) == ["teacher", "export"]
