"""The benchmarks run on a tiny study and end with the JSON line that they promise."""

from __future__ import annotations

import json
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from scaling import Recorded
from tiny import FEW_BLOCKS

from nas.evaluate import CandidateResult
from nas.space import SearchSpace
from nas.supernet.training import Distillation

BENCH = Path(__file__).parents[1] / "scripts" / "bench"


def _given(study):
    return ["--study", str(study), "--runs", str(study.parent / "runs"), "--threads", "1"]


def _alone(name, *options):
    """The JSON line of a benchmark in a process of its own."""
    command = [sys.executable, str(BENCH / f"{name}.py"), "--json", *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


@pytest.fixture
def bench(capsys, monkeypatch):
    """The JSON line of a benchmark that is run in this process, where everything is imported already."""

    def call(name, *options):
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--json", *options])
        capsys.readouterr()
        runpy.run_path(str(BENCH / f"{name}.py"), run_name="__main__")
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def test_a_wrong_call_is_one_line(bench, capsys):
    with pytest.raises(SystemExit) as stop:
        bench("ordering", "--study", "nonsense")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: nonsense: no such study")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_supernet_step(bench, searched_study):
    found = bench("supernet_step", *_given(searched_study), "--steps", "4", "--rounds", "1")
    assert found["lean_ratio"] == pytest.approx(found["supernet_s"] / found["lean_s"], rel=1e-2)
    assert found["step_ratio"] == pytest.approx(found["supernet_s"] / found["plain_s"], rel=1e-2)
    assert 0 < found["matmul_fraction"] < 1


@pytest.mark.slow
def test_contention(searched_study):
    found = _alone("contention", *_given(searched_study), "--steps", "2", "--rounds", "1")
    assert found["wait_policy"] == "PASSIVE" and found["threads"] == 1 and found["loss_difference"] == 0.0
    for kind in ("supernet", "fine-tuning"):
        seconds = [found[f"{kind}_{condition}_s"] for condition in ("one", "all", "busy")]
        assert found[f"{kind}_speed_up"] == pytest.approx(seconds[0] / seconds[1], rel=0.05)
        assert found[f"{kind}_busy"] == pytest.approx(seconds[2] / seconds[1], rel=0.05)


@pytest.mark.slow
def test_choices(bench, searched_study):
    found = bench("choices", *_given(searched_study))["choices"]
    assert found["attention int8"]["block_ms"] > 0 and found["embedding int8"]["block_ms"] is None
    assert found["feed_forward int8"]["size_mb"] < found["feed_forward none"]["size_mb"]


@pytest.mark.slow
def test_candidates_per_second(bench, searched_study):
    found = bench("candidates_per_second", *_given(searched_study), "--candidates", "12")
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
def test_equal_time(bench, searched_study):
    found = bench("equal_time", *_given(searched_study), "--seconds", "3", "--seeds", "0")
    for name in ("at first", "now"):
        (one,) = found[name]
        assert one["candidates"] >= one["whole"] > 0 and set(one["best"]) <= {"large", "small"}
        assert all(0 < accuracy <= 1 for accuracy in one["best"].values())


@pytest.mark.slow
def test_knapsack(bench, searched_study):
    found = bench("knapsack", *_given(searched_study), "--evaluations", "12", "--seeds", "0")
    assert found["changes"] == 1 + 2 + 1 + 3 + 3 * (5 + 5)
    sums, without, begun = found["searches"]
    assert sums["best"].keys() == {"large", "small"} and sums["end"] is None
    for search in (without, begun):
        assert 0 < search["early"] <= search["end"] <= 1
    assert all(begun["best"][name] >= accuracy for name, accuracy in sums["best"].items())


@pytest.mark.slow
def test_kills(bench, searched_study, monkeypatch):
    """The driver of a search on a cluster is killed; the same command ends the search."""
    start = subprocess.Popen

    def start_or_fork(command, *rest, **settings):
        is_driver = Path(command[1]).name == "kills.py"
        return forked.Program(*command[1:]) if is_driver else start(command, *rest, **settings)

    monkeypatch.setattr(subprocess, "Popen", start_or_fork)
    found = bench("kills", *_given(searched_study), "--kills", "1", "--nodes", "1")
    assert found["whole"] == found["kills"] == 1 and found["outcomes"][0]["kind"] == "driver"
    assert found["outcomes"][0]["finished"] == found["evaluations"] == 16


@pytest.mark.slow
def test_ray_scaling(bench, searched_study):
    found = bench("ray_scaling", *_given(searched_study), "--candidates", "12", "--rounds", "2")
    assert found["workers"] == [1, 2] and all(rate > 0 for rate in found["candidates_per_second"])


@pytest.mark.slow
def test_scaling(bench, searched_study, tmp_path):
    picture = tmp_path / "scaling.svg"
    options = ("--workers", "1", "4", "--evaluations", "20", "--quality", "10", "--seeds", "1")
    found = bench("scaling", *_given(searched_study), *options, "--picture", str(picture))
    assert [item["workers"] for item in found["rates"]["no trouble"]] == [1, 4]
    assert all(0 < item["utilisation"] <= 1 for items in found["rates"].values() for item in items)
    assert set(found["quality"]) == {"1", "4"} and all(0 < best < 1 for best in found["quality"]["4"][0])
    assert picture.read_text().startswith("<svg")


def test_a_fit_of_accuracies_that_are_all_equal():
    space, rng = SearchSpace.load("tiny"), random.Random(0)
    recorded = Recorded([CandidateResult(space.sample(rng), 0.7, 120, 0.1) for _ in range(12)])
    assert recorded.r_squared == 0.0
    assert recorded.evaluate(space.largest(), 0.0).accuracy == pytest.approx(0.7, abs=1e-6)


@pytest.mark.slow
def test_latency_prediction_and_budgets(bench, tmp_path):
    """On a space of few blocks; they need no study."""
    space = tmp_path / "few.toml"
    space.write_text(FEW_BLOCKS)
    found = bench("latency_prediction", "--space", str(space), "--only", "onnxruntime", "--tokens", "16")
    assert found["onnxruntime"]["networks"] == 24
    found = bench("budgets", "--space", str(space), "--pairs", "2", "--only", "1-thread-128-tokens")
    assert found["pairs"] == len(found["records"]) == 2


@pytest.mark.slow
def test_what_rests_on_a_trained_supernet(bench, searched_study, tmp_path):
    study = shutil.copytree(searched_study.parent, tmp_path / "tiny") / "study.toml"
    accuracy = bench("ordering", *_given(study))["accuracy"]
    assert set(accuracy) == {"unordered", "magnitude", "Taylor", "Taylor, made up"}
    assert len({values["whole teacher"] for values in accuracy.values()}) == 1
    options = ("--architectures", "4", "--steps", "2")
    found = bench("rank_correlation", *_given(study), *options)
    assert found["architectures"] == 4 and found["low"] <= found["kendall_tau"] <= found["high"]
    under = bench("inherited", *_given(study))["points_under_teacher"]
    assert {"full width", "half width", "hidden_size 16", "layers 0, 2", "layers 0, half width"} <= set(under)
    shown = json.loads((study.parent / "runs" / "tiny" / "rank_correlation.json").read_text())
    assert shown["kendall_tau"] == found["kendall_tau"] and len(shown["rows"]) == 4
    measured = sorted((study.parent / "runs" / "tiny" / "rank_correlation").glob("*.json"))
    assert len(measured) == 4
    written = [path.stat().st_mtime_ns for path in measured]
    assert bench("rank_correlation", *_given(study), *options) == found
    assert [path.stat().st_mtime_ns for path in measured] == written


@pytest.mark.slow
def test_equal_training_goes_on_after_an_interruption(bench, finished_study, tmp_path, monkeypatch):
    """Steps are timed once: other numbers of steps would be another training."""
    study = shutil.copytree(finished_study.parent, tmp_path / "tiny") / "study.toml"
    runs, train = study.parent / "runs", Distillation.train_cohort
    shutil.move(runs / "tiny", runs / "seed-0" / "tiny")
    options = (*_given(study), "--seeds", "0", "--share", "0.01", "--budgets", "large")

    def stops(training, networks, halving, judge, title):
        if title == "Training the narrowed network":
            raise KeyboardInterrupt
        return train(training, networks, halving, judge, title)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Distillation, "train_cohort", stops)
        bench("equal_training", *options)
    folder = runs / "seed-0" / "tiny" / "equal_training"
    timed = [json.loads(path.read_text()) for path in folder.glob("*/seconds_per_step.json")]
    found = bench("equal_training", *options)["budgets"]
    first = next(iter(found.values()))
    assert {name: row[0]["seconds_per_step"] for name, row in first.items() if name in timed[0]} == timed[0]
    for rows in found.values():
        assert {"uniform", "narrowed", "same, alone", "nas run"} <= set(rows)
        assert all(0 <= row[0][key] <= 1 for row in rows.values() for key in ("search", "test"))
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] * len(found), "no checkpoints are left"
    assert bench("equal_training", *options)["budgets"] == found


def test_driver_overhead(bench):
    found = bench("driver_overhead", "--space", "tiny", "--trials", "120")
    assert set(found["ms_per_trial"]) == {"100", "mean"} == set(found["cpu_ms_per_trial"])
    assert found["outcomes"]["evaluated"] == 120
