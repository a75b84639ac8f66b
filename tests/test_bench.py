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
def test_contention(tiny_study):
    found = _bench("contention", tiny_study, "--steps", "2", "--rounds", "1")
    assert found["wait_policy"] == "PASSIVE" and found["threads"] == 1 and found["loss_difference"] == 0.0
    for kind in ("supernet", "fine-tuning"):
        seconds = [found[f"{kind}_{condition}_s"] for condition in ("one", "all", "busy")]
        assert found[f"{kind}_speed_up"] == pytest.approx(seconds[0] / seconds[1], rel=0.05)
        assert found[f"{kind}_busy"] == pytest.approx(seconds[2] / seconds[1], rel=0.05)


@pytest.mark.slow
def test_choices(tiny_study):
    found = _bench("choices", tiny_study)["choices"]
    assert found["attention int8"]["block_ms"] > 0 and found["embedding int8"]["block_ms"] is None
    assert found["feed_forward int8"]["size_mb"] < found["feed_forward none"]["size_mb"]


@pytest.mark.slow
def test_candidates_per_second(searched_study):
    found = _bench("candidates_per_second", searched_study, "--candidates", "12")
    assert found["ratio"] == pytest.approx(found["all"] / found["naive"], rel=1e-2)
    assert found["same_front"] == (found["front_loses"] <= found["standard_error"])
    assert set(found["rates"]) == {
        "naive",
        "batches by length",
        "and weights rounded once",
        "and shared layers",
        "and racing",
        "and bf16",
        "all",
    }


@pytest.mark.slow
def test_equal_time(searched_study):
    found = _bench("equal_time", searched_study, "--seconds", "3", "--seeds", "0")
    for name in ("at first", "now"):
        (one,) = found[name]
        assert one["candidates"] >= one["whole"] > 0 and set(one["best"]) <= {"large", "small"}
        assert all(0 < accuracy <= 1 for accuracy in one["best"].values())


@pytest.mark.slow
def test_knapsack(searched_study):
    found = _bench("knapsack", searched_study, "--evaluations", "12", "--seeds", "0")
    assert found["changes"] == 1 + 2 + 1 + 3 + 3 * (5 + 5)
    sums, without, begun = found["searches"]
    assert sums["best"].keys() == {"large", "small"} and sums["end"] is None
    for search in (without, begun):
        assert 0 < search["early"] <= search["end"] <= 1
    assert all(begun["best"][name] >= accuracy for name, accuracy in sums["best"].items())


@pytest.mark.slow
def test_kills(searched_study):
    """The driver of a search on a cluster is killed; the same command ends the search."""
    found = _bench("kills", searched_study, "--kills", "1")
    assert found["whole"] == found["kills"] == 1 and found["outcomes"][0]["kind"] == "driver"
    assert found["outcomes"][0]["finished"] == found["evaluations"] == 16


@pytest.mark.slow
def test_ray_scaling(searched_study):
    found = _bench("ray_scaling", searched_study, "--candidates", "12", "--rounds", "2")
    assert found["workers"] == [1, 2] and all(rate > 0 for rate in found["candidates_per_second"])


@pytest.mark.slow
def test_scaling(searched_study, tmp_path):
    picture = tmp_path / "scaling.svg"
    options = ("--workers", "1", "4", "--evaluations", "20", "--quality", "10", "--seeds", "1")
    found = _bench("scaling", searched_study, *options, "--picture", str(picture))
    assert [item["workers"] for item in found["rates"]["no trouble"]] == [1, 4]
    assert all(0 < item["utilisation"] <= 1 for items in found["rates"].values() for item in items)
    assert set(found["quality"]) == {"1", "4"} and all(0 < best < 1 for best in found["quality"]["4"][0])
    assert picture.read_text().startswith("<svg")


@pytest.mark.slow
def test_latency_prediction_and_budgets():
    """On the tiny space; they need no study."""
    for name, options in (
        ("latency_prediction", ("--only", "onnxruntime", "--tokens", "16")),
        ("budgets", ("--pairs", "2", "--only", "1-thread-128-tokens")),
    ):
        command = [sys.executable, str(BENCH / f"{name}.py"), "--space", "tiny", "--json", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        if name == "budgets":
            assert found["pairs"] == len(found["records"]) == 2
        else:
            assert found["onnxruntime"]["networks"] == 24


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
    shown = json.loads((tiny_study.parent / "runs" / "tiny" / "rank_correlation.json").read_text())
    assert shown["kendall_tau"] == found["kendall_tau"] and len(shown["rows"]) == 4
    measured = sorted((tiny_study.parent / "runs" / "tiny" / "rank_correlation").glob("*.json"))
    assert len(measured) == 4
    written = [path.stat().st_mtime_ns for path in measured]
    assert _bench("rank_correlation", tiny_study, *options) == found
    assert [path.stat().st_mtime_ns for path in measured] == written


def test_driver_overhead():
    command = [sys.executable, str(BENCH / "driver_overhead.py"), "--space", "tiny", "--trials", "120", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["ms_per_trial"]) == {"100", "mean"} == set(found["cpu_ms_per_trial"])
    assert found["outcomes"]["evaluated"] == 120
