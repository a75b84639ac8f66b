"""The benchmarks run on a tiny study and end with the JSON line that they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "scripts" / "bench"


def _bench(name, study, *options):
    command = [sys.executable, str(BENCH / f"{name}.py"), "--study", str(study), "--runs", str(study.parent / "runs")]
    command += ["--threads", "1", "--json", *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


def test_a_wrong_call_is_one_line():
    found = subprocess.run(
        [sys.executable, str(BENCH / "ordering.py"), "--study", "nonsense"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2 and found.stderr.startswith("error: nonsense: no such study")
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_supernet_step(tiny_study):
    found = _bench("supernet_step", tiny_study, "--steps", "4", "--rounds", "1")
    assert found["lean_ratio"] == pytest.approx(found["supernet_s"] / found["lean_s"], rel=1e-2)
    assert found["step_ratio"] == pytest.approx(found["supernet_s"] / found["plain_s"], rel=1e-2)
    assert 0 < found["matmul_fraction"] < 1


@pytest.mark.slow
def test_what_rests_on_a_trained_supernet(tiny_study):
    accuracy = _bench("ordering", tiny_study)["accuracy"]
    assert set(accuracy) == {"unordered", "magnitude", "Taylor", "Taylor, made up"}
    assert len({values["whole teacher"] for values in accuracy.values()}) == 1
    options = ("--architectures", "4", "--steps", "2")
    found = _bench("rank_correlation", tiny_study, *options)
    assert found["architectures"] == 4 and found["low"] <= found["kendall_tau"] <= found["high"]
    under = _bench("inherited", tiny_study)["points_under_teacher"]
    assert {"full width", "half width", "hidden_size 16", "layers 0, 2", "layers 0, half width"} <= set(under)
    measured = sorted((tiny_study.parent / "runs" / "tiny" / "rank_correlation").glob("*.json"))
    assert len(measured) == 4
    written = [path.stat().st_mtime_ns for path in measured]
    assert _bench("rank_correlation", tiny_study, *options) == found
    assert [path.stat().st_mtime_ns for path in measured] == written
