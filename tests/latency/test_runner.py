"""The measuring program: noise is seen and measured again, warm-up ends when it is stable, it needs little."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.device import Device
from nas.latency import runner
from nas.latency.runtimes import RUNTIMES
from nas.latency.workers import LocalWorker

SETTINGS = Device(name="cpu").model_dump(mode="json")


def _group(*names, rounds=4):
    inputs = [{"ids": {"kind": "ids", "values": [[1, 2, 3]]}}]
    return {"networks": [{"name": name, "inputs": inputs} for name in names], "rounds": rounds}


def _load(item, device, inputs):
    assert inputs[0]["ids"].tolist() == [[1, 2, 3]]
    return [lambda: item["name"]]


class FakeClock:
    """Milliseconds of each run of a network, by the number of runs of the reference so far."""

    def __init__(self, disturbed):
        self.runs, self.disturbed = 0, disturbed

    def __call__(self, run):
        name = run()
        self.runs += 1
        base = {"reference": 2.0, "other": 5.0}[name]
        return base * self.disturbed(self.runs)


def test_a_quiet_machine_is_measured_once():
    found = runner.measure_group(_group("reference", "other"), SETTINGS, _load, FakeClock(lambda run: 1.0))
    assert found["attempts"] == 1 and not found["noisy"] and found["drift"] == 0.0
    assert set(found["samples_ms"]["other"][0]) == {5.0} and set(found["samples_ms"]["reference"][0]) == {2.0}


def test_the_first_runs_of_a_turn_do_not_count(monkeypatch):
    """As many as fit into a while, at least one and at most ten, in each turn of each network."""
    monkeypatch.setattr(runner, "_settle", settled := Settled())
    clock = FakeClock(lambda run: 1.0)
    runner.measure_group(_group("reference", "other"), SETTINGS, _load, clock)
    assert settled.turns == 2 * _group("reference", "other")["rounds"]


def test_the_first_network_comes_in_turns_more_often():
    others = [f"other {number}" for number in range(24)]
    group = _group("reference", *others, rounds=3)
    found = runner.measure_group(group, SETTINGS, _load, lambda run: 1.0 + (run() != "reference"))
    assert {name: len(taken) for name, (taken,) in found["samples_ms"].items()} == {
        "reference": 3 * 3 * 12,
        **dict.fromkeys(others, 3 * 12),
    }


class Settled:
    """Counts the turns that a network is run untimed in."""

    def __init__(self):
        self.turns = 0

    def __call__(self, run, clock, seconds):
        self.turns += 1
        assert 0.0 < seconds <= 0.01


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, 1), (60.0, 10)])
def test_settling_ends(seconds, runs):
    clock = FakeClock(lambda run: 1.0)
    runner._settle(lambda: "other", clock, seconds)
    assert clock.runs == runs


@pytest.mark.parametrize(
    ("runtime", "program"), [("onnxruntime", runner.__file__), ("torch", "nas.latency.worker_process")]
)
def test_who_measures(runtime, program):
    """ONNX files are measured by a process that holds neither nas nor torch."""
    with LocalWorker(Device(name="cpu", runtime=runtime)) as worker:
        assert any(program in part for part in worker._process.args)
        loaded = Path(f"/proc/{worker._process.pid}/maps").read_text()
        assert ("libtorch" in loaded) == (runtime == "torch")


def test_a_drifting_machine_is_measured_again_and_marked():
    clock = FakeClock(lambda run: 1.0 + run / 100)
    found = runner.measure_group(_group("reference", "other"), SETTINGS, _load, clock)
    assert found["attempts"] == 3 and found["noisy"] and found["drift"] > 0.1


def test_a_disturbance_that_ends_leaves_the_quiet_attempt():
    clock = FakeClock(lambda run: 1.0 + run / 100 if run < 150 else 1.0)
    found = runner.measure_group(_group("reference", "other"), SETTINGS, _load, clock)
    assert 1 < found["attempts"] <= 3 and not found["noisy"]
    assert set(found["samples_ms"]["other"][0]) == {5.0}


def test_a_quiet_attempt_is_kept_before_a_noisy_one(monkeypatch):
    """Also where its drift and spread are the greater ones together."""
    noisy = {"samples_ms": {}, "spread": {"a": 0.01}, "drift": 0.11, "noisy": True}
    quiet = {"samples_ms": {}, "spread": {"a": 0.14}, "drift": 0.09, "noisy": False}
    attempts = iter([noisy, quiet])
    monkeypatch.setattr(runner, "_measure_once", lambda *arguments: next(attempts))
    found = runner.measure_group(_group("reference"), SETTINGS, _load, FakeClock(lambda run: 1.0))
    assert found["drift"] == 0.09 and found["attempts"] == 2 and not found["noisy"]


def test_memory_is_that_of_the_network_not_of_who_asks(supernet_weights, tmp_path):
    """A process inherits its parent's highest mark in some counts."""
    from nas.latency.measure import NO_TEXTS, item_of

    item = item_of(Device(name="cpu"), "model", supernet_weights, tmp_path / "network", NO_TEXTS, {"model": 8})
    ballast = np.ones(50_000_000)  # 400 MB
    assert ballast.sum() > 0
    assert 20 < runner.peak_memory_apart(item, SETTINGS) < 250


def test_a_processor_that_is_not_there_is_said_so(supernet_weights, tmp_path):
    """ONNX Runtime itself would go on with another one."""
    from nas.latency.measure import NO_TEXTS, item_of

    item_of(Device(name="cpu"), "model", supernet_weights, tmp_path / "network", NO_TEXTS, {"model": 8})
    with pytest.raises(OSError, match="CUDAExecutionProvider"):
        runner.onnx_session(str(tmp_path / "network"), 1, "cuda")


def test_the_threads_of_a_session_stop_with_its_run(supernet_weights, tmp_path):
    """They would look for work on the cores of the next network."""
    RUNTIMES["onnxruntime"].write_model(supernet_weights, tmp_path / "network")
    settings = runner.onnx_session(str(tmp_path / "network"), 2).get_session_options()
    assert settings.get_session_config_entry("session.force_spinning_stop") == "1"


def test_samples_that_spread_are_noise_too():
    rng = np.random.default_rng(0)
    found = runner.measure_group(
        _group("reference", "other"), SETTINGS, _load, FakeClock(lambda run: rng.choice([1.0, 2.0]))
    )
    assert found["noisy"] and found["spread"]["other"] > 0.15


@pytest.mark.parametrize("fewest", [3, 20])
def test_warm_up_goes_on_until_it_is_stable(fewest):
    took = iter([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, *[1.0] * 100])
    seen = []
    assert runner._warm_up(lambda: None, fewest, lambda run: seen.append(next(took)) or seen[-1]) == 1.0
    assert len(seen) == max(fewest, 12)


def test_environment_tells_runtimes_apart():
    here = runner.environment(SETTINGS)
    assert here["cores"] >= 1 and here["runtime"] == "onnxruntime" and len(here["fingerprint"]) == 16
    assert here == runner.environment(SETTINGS)
    assert here["fingerprint"] != runner.environment(SETTINGS | {"runtime": "torch"})["fingerprint"]


def test_the_program_needs_numpy_alone_until_it_opens_a_network():
    """It is sent to devices that have little, so it must not import anything of ours, nor torch."""
    script = (
        "import runpy, sys; runpy.run_path(sys.argv[1]);"
        "heavy = [name for name in sys.modules if name.split('.')[0] in ('nas', 'torch', 'pydantic', 'onnx')];"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script, runner.__file__], check=True, cwd=Path(runner.__file__).parent)


def test_a_lane_keeps_to_the_cores_of_its_device():
    core = min(os.sched_getaffinity(0))
    with LocalWorker(Device(name="cpu", pin_to=[core])) as worker:
        allowed = Path(f"/proc/{worker._process.pid}/status").read_text()
    assert f"Cpus_allowed_list:\t{core}\n" in allowed
