"""Each benchmark runs on a tiny study, and prints its results as a JSON object on the last line."""

from __future__ import annotations

import json
import random
import runpy
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import forked
import numpy as np
import onnx
import pytest
from datasets import Dataset
from embeddings import Retrieval
from equal_training import wider
from scaling import Recorded
from sentence_reduction import keep_layers
from tiny import FEW_BLOCKS, make_teacher, write_embedding_study

from nas.architecture import Architecture, Layer
from nas.evaluate import CandidateResult
from nas.pipeline import Run
from nas.pipeline.runner import bring_up_to_date
from nas.pipeline.steps import steps_of
from nas.space import SearchSpace
from nas.study import Study
from nas.supernet.training import Distillation

BENCH = Path(__file__).parents[1] / "scripts" / "bench"


def _options(study):
    return ["--study", str(study), "--runs", str(study.parent / "runs"), "--threads", "1"]


def _run_in_new_process(name, *options):
    """Run a benchmark in a new process, and return its results."""
    command = [sys.executable, str(BENCH / f"{name}.py"), "--json", *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


@pytest.fixture
def bench(capsys, monkeypatch, simulated_times):
    """Run a benchmark in this process, where everything is already imported, and return its results."""

    def call(name, *options):
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--json", *options])
        capsys.readouterr()
        runpy.run_path(str(BENCH / f"{name}.py"), run_name="__main__")
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def test_an_unknown_study_is_a_one_line_error(bench, capsys):
    with pytest.raises(SystemExit) as stop:
        bench("ordering", "--study", "nonsense")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: nonsense: no such study")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_supernet_step_reports_the_time_and_its_ratios(bench, searched_study):
    found = bench("supernet_step", *_options(searched_study), "--steps", "4", "--rounds", "1")
    assert found["lean_ratio"] == pytest.approx(found["supernet_s"] / found["lean_s"], rel=1e-2)
    assert found["step_ratio"] == pytest.approx(found["supernet_s"] / found["plain_s"], rel=1e-2)
    assert 0 < found["matmul_fraction"] < 1


@pytest.mark.slow
def test_contention_reports_the_time_with_one_thread_all_threads_and_a_busy_machine(searched_study):
    found = _run_in_new_process("contention", *_options(searched_study), "--steps", "2", "--rounds", "1")
    assert found["wait_policy"] == "PASSIVE" and found["threads"] == 1 and found["loss_difference"] == 0.0
    for kind in ("supernet", "fine-tuning"):
        seconds = [found[f"{kind}_{condition}_s"] for condition in ("one", "all", "busy")]
        assert found[f"{kind}_speed_up"] == pytest.approx(seconds[0] / seconds[1], rel=0.05)
        assert found[f"{kind}_busy"] == pytest.approx(seconds[2] / seconds[1], rel=0.05)
        assert found[f"{kind}_limit"] > 0


@pytest.mark.slow
def test_choices_reports_the_latency_and_the_size_of_blocks(bench, searched_study):
    found = bench("choices", *_options(searched_study))["choices"]
    assert found["attention int8"]["block_ms"] > 0 and found["embedding int8"]["block_ms"] is None
    assert found["feed_forward int8"]["size_mb"] < found["feed_forward none"]["size_mb"]


@pytest.mark.slow
def test_runtimes_reports_the_latency_and_the_agreement_of_each_format(bench, searched_study):
    pytest.importorskip("openvino")
    found = bench("runtimes", *_options(searched_study), "--tokens", "8", "--rounds", "2", "--examples", "50")
    assert found["examples"] == 50
    fastest = {}
    for name, result in found["results"].items():
        runtime, _, method = name.split()
        assert result["p50_ms"]["8"] > 0
        assert result["agreement"] >= 0.98 or "bfloat16" in name
        key = (runtime, method == "none")
        fastest[key] = min(fastest.get(key, 1e9), result["p50_ms"]["8"])
    for runtime in ("onnxruntime", "openvino"):
        assert found["gain"][runtime]["8"] == pytest.approx(fastest[runtime, True] / fastest[runtime, False], abs=1e-3)


@pytest.mark.slow
def test_candidates_per_second_reports_the_rate_with_each_optimisation(bench, searched_study):
    found = bench("candidates_per_second", *_options(searched_study), "--candidates", "12")
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
def test_equal_time_reports_the_best_accuracies_of_both_searches(bench, searched_study, monkeypatch):
    """The time is that of this process, so that other processes do not shorten the searches."""
    monkeypatch.setattr("time.monotonic", time.process_time)
    found = bench("equal_time", *_options(searched_study), "--seconds", "2", "--seeds", "0")
    for name in ("at first", "now"):
        (search,) = found[name]
        assert search["candidates"] >= search["whole"] > 0 and set(search["best"]) <= {"large", "small"}
        assert all(0 < accuracy <= 1 for accuracy in search["best"].values())


@pytest.mark.slow
def test_knapsack_reports_the_solutions_and_searches_with_and_without_them(bench, searched_study):
    found = bench("knapsack", *_options(searched_study), "--evaluations", "12", "--seeds", "0")
    # the largest network, 2 hidden sizes, int8 embeddings, 3 sets of layers, 5 attentions and 5 feed-forwards per layer
    assert found["changes"] == 37
    solutions, without, started = found["searches"]
    assert solutions["best"].keys() == {"large", "small"} and solutions["end"] is None
    for search in (without, started):
        assert 0 < search["early"] <= search["end"] <= 1
    assert all(started["best"][name] >= accuracy for name, accuracy in solutions["best"].items())


@pytest.mark.slow
def test_kills_finishes_the_search_after_its_driver_is_killed(bench, searched_study, monkeypatch):
    """The search runs on a cluster, and is continued with the same command."""
    import_module("ray._private.services")  # derives a class from Popen, and must not find the function below
    start = subprocess.Popen

    def start_or_fork(command, *rest, **settings):
        is_driver = Path(command[1]).name == "kills.py"
        return forked.Program(*command[1:]) if is_driver else start(command, *rest, **settings)

    monkeypatch.setattr(subprocess, "Popen", start_or_fork)
    found = bench("kills", *_options(searched_study), "--kills", "1", "--nodes", "1")
    assert found["whole"] == found["kills"] == 1 and found["outcomes"][0]["kind"] == "driver"
    assert found["outcomes"][0]["finished"] == found["evaluations"] == 16


@pytest.mark.slow
def test_ray_scaling_reports_a_rate_for_each_number_of_workers(bench, searched_study):
    found = bench("ray_scaling", *_options(searched_study), "--candidates", "12", "--rounds", "2")
    assert found["workers"] == [1, 2] and all(rate > 0 for rate in found["candidates_per_second"])


@pytest.mark.slow
def test_scaling_reports_utilisation_and_quality_and_draws_a_chart(bench, searched_study, tmp_path):
    chart = tmp_path / "scaling.svg"
    options = ("--workers", "1", "4", "--evaluations", "20", "--quality", "10", "--seeds", "1")
    found = bench("scaling", *_options(searched_study), *options, "--picture", str(chart))
    assert [item["workers"] for item in found["rates"]["no trouble"]] == [1, 4]
    assert all(0 < item["utilisation"] <= 1 for items in found["rates"].values() for item in items)
    assert set(found["quality"]) == {"1", "4"} and all(0 < best < 1 for best in found["quality"]["4"][0])
    assert chart.read_text().startswith("<svg")


def test_published_compares_exports_with_published_networks_and_draws_a_picture(bench, tmp_path, capsys):
    (tmp_path / "verification").mkdir()
    for name, accuracy, latency in (("teacher", 0.94, 10.0), ("fast", 0.92, 2.5)):
        record = {"accuracy": accuracy, "p50_ms": latency, "teacher_p50_ms": 10.0}
        (tmp_path / "verification" / f"{name}.json").write_text(json.dumps(record))
    other = {"name": "Other", "speed_up": 3.0, "points_lost": 1.5, "accuracy": 91.0, "hardware": "a GPU"}
    with pytest.raises(SystemExit):
        bench("published", str(tmp_path))
    assert "published.json" in capsys.readouterr().err
    (tmp_path / "published.json").write_text(json.dumps([other]))
    found = bench("published", str(tmp_path))
    (own,) = found["own"]
    assert (own["name"], own["speed_up"], own["accuracy"]) == ("fast", 4.0, 92.0)
    assert own["points_lost"] == pytest.approx(2.0) and found["published"] == [other]
    assert ElementTree.parse(tmp_path / "speedup.svg").getroot().tag.endswith("svg")


def test_a_surrogate_fitted_to_equal_accuracies_predicts_that_accuracy():
    space, rng = SearchSpace.load("tiny"), random.Random(0)
    recorded = Recorded([CandidateResult(space.sample(rng), 0.7, 120, 0.1) for _ in range(12)])
    assert recorded.r_squared == 0.0
    assert recorded.evaluate(space.largest(), 0.0).accuracy == pytest.approx(0.7, abs=1e-6)


@pytest.mark.slow
def test_latency_prediction_and_budgets_need_only_a_search_space(bench, tmp_path):
    space = tmp_path / "few.toml"
    space.write_text(FEW_BLOCKS)
    found = bench("latency_prediction", "--space", str(space), "--only", "onnxruntime", "--tokens", "16")
    assert found["onnxruntime"]["networks"] == 24
    found = bench("budgets", "--space", str(space), "--pairs", "2", "--only", "1-thread-128-tokens")
    assert found["pairs"] == len(found["records"]) == 2


@pytest.mark.slow
def test_ordering_rank_correlation_and_inherited_report_results_of_a_trained_supernet(bench, searched_study, tmp_path):
    study = shutil.copytree(searched_study.parent, tmp_path / "tiny") / "study.toml"
    accuracy = bench("ordering", *_options(study))["accuracy"]
    assert set(accuracy) == {"unordered", "magnitude", "Taylor", "Taylor, made up"}
    assert len({values["whole teacher"] for values in accuracy.values()}) == 1
    options = ("--architectures", "4", "--steps", "2")
    found = bench("rank_correlation", *_options(study), *options)
    assert found["architectures"] == 4 and found["low"] <= found["kendall_tau"] <= found["high"]
    points = bench("inherited", *_options(study))["points_under_teacher"]
    assert {"full width", "half width", "hidden_size 16", "layers 0, 2", "layers 0, half width"} <= set(points)
    stored = json.loads((study.parent / "runs" / "tiny" / "rank_correlation.json").read_text())
    assert stored["kendall_tau"] == found["kendall_tau"] and len(stored["rows"]) == 4
    measured = sorted((study.parent / "runs" / "tiny" / "rank_correlation").glob("*.json"))
    assert len(measured) == 4
    times = [path.stat().st_mtime_ns for path in measured]
    assert bench("rank_correlation", *_options(study), *options) == found
    assert [path.stat().st_mtime_ns for path in measured] == times, "networks are not measured again"


def test_a_narrowed_network_is_cut_from_one_with_twice_as_many_heads_and_neurons():
    """Only a network that is cut from the teacher is compensated for dropped hidden units. None are dropped here."""
    space = SearchSpace.load("tiny")  # the teacher has 4 heads and 64 neurons per layer, and 32 hidden units
    narrow = Architecture(16, (Layer(0, 1, 8, "int8", "int8"), Layer(2, 3, 64)), "int8")
    assert wider(space, narrow) == Architecture(16, (Layer(0, 2, 16), Layer(2, 4, 64)))


@pytest.mark.slow
def test_equal_training_resumes_after_an_interruption(bench, finished_study, tmp_path, monkeypatch):
    """The steps are timed only once, because another result would change the numbers of steps."""
    study = shutil.copytree(finished_study.parent, tmp_path / "tiny") / "study.toml"
    runs, train = study.parent / "runs", Distillation.train_cohort
    shutil.move(runs / "tiny", runs / "seed-0" / "tiny")
    options = (*_options(study), "--seeds", "0", "--share", "0.003", "--budgets", "large")

    def train_or_stop(training, networks, halving, judge, title):
        if title == "Training the narrowed network":
            raise KeyboardInterrupt
        return train(training, networks, halving, judge, title)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Distillation, "train_cohort", train_or_stop)
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


@pytest.mark.slow
def test_alternatives_compares_the_files_of_installed_tools_with_the_exports(
    bench, finished_study, tmp_path, monkeypatch
):
    study = shutil.copytree(finished_study.parent, tmp_path / "tiny") / "study.toml"
    run = study.parent / "runs" / "tiny"
    for missing in ("olive", "optimum"):
        monkeypatch.setitem(sys.modules, missing, None)
    options = (*_options(study), "--rounds", "2")
    found = bench("alternatives", *options, "--only", "onnxruntime", "optimum", "olive", "layer-reduction")
    assert found["left_out"] == {
        "optimum": "it is not installed; pip install optimum-onnx[onnxruntime]",
        "olive": "it is not installed; pip install olive-ai",
        "layer-reduction": "it compresses only networks of the type encoder",
    }
    networks = found["networks"]
    assert list(networks) == ["teacher", "teacher-int8", "ONNX Runtime, int8", "large", "small"]
    assert [row["tool"] for row in networks.values()] == ["nas", "nas", "other", "nas", "nas"]
    assert networks["teacher"]["speed_up"] == 1.0
    for name, row in networks.items():
        assert row["speed_up"] == pytest.approx(networks["teacher"]["p50_ms"] / row["p50_ms"])
        if row["tool"] == "nas":
            folder = run / "exports" / name if name in ("large", "small") else run / "baselines" / "cpu" / name
            stored = json.loads((folder / "verification.json").read_text())
            assert (row["accuracy"], row["size_mb"]) == (stored["accuracy"], stored["size_mb"])
    other, file = networks["ONNX Runtime, int8"], run / "alternatives" / "onnxruntime" / "0" / "onnx" / "model.onnx"
    assert other["size_mb"] == file.stat().st_size / 1e6
    assert other["accuracy"] == pytest.approx(networks["teacher"]["accuracy"], abs=0.05), "int8 changes few answers"
    written = file.stat().st_mtime_ns
    again = bench("alternatives", *options, "--only", "onnxruntime")["networks"]["ONNX Runtime, int8"]
    assert again["accuracy"] == other["accuracy"] and file.stat().st_mtime_ns == written, "the file is kept"


@pytest.mark.slow
def test_alternatives_distils_some_layers_of_an_encoder(bench, tmp_path):
    study = write_embedding_study(tmp_path)
    run = Run.of(Study.load(study), tmp_path / "runs")
    bring_up_to_date(run, steps_of(run), "baselines-cpu")
    options = ("--only", "layer-reduction", "--layers", "2", "0", "--steps", "2", "--rounds", "2")
    found = bench("alternatives", *_options(study), *options)
    networks = found["networks"]
    student, int8 = networks["layers 0, 2 (2 steps)"], networks["layers 0, 2 (2 steps), int8"]
    file = tmp_path / "runs" / run.study.name / "alternatives" / "layer-reduction" / "0" / "onnx" / "model.onnx"
    softmaxes = [node for node in onnx.load(file).graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 2 and found["left_out"] == {}, "two layers are left, each with one attention"
    assert int8["accuracy"] == pytest.approx(student["accuracy"], abs=0.1)


def test_a_layer_reduction_keeps_the_named_layers_with_their_weights():
    model = make_teacher()
    weights = [layer.output.dense.weight.clone() for layer in model.bert.encoder.layer]
    assert keep_layers(model, (2, 0)) == [0, 2] and model.config.num_hidden_layers == 2
    kept = [layer.output.dense.weight for layer in model.bert.encoder.layer]
    assert len(kept) == 2 and kept[0].equal(weights[0]) and kept[1].equal(weights[2])
    assert keep_layers(make_teacher(), ()) == [0], "by default every third of three layers"


def test_documents_of_a_corpus_with_repeated_ids_are_found_and_missing_ones_are_not(tmp_path):
    corpus = [{"_id": name, "title": "", "text": name} for name in ("a", "a", "b")]
    judged = [{"query-id": "1", "corpus-id": "b", "score": 1}, {"query-id": "1", "corpus-id": "absent", "score": 1}]
    for name, rows in (("corpus", corpus), ("queries", [{"_id": "1", "text": "q"}]), ("qrels_test", judged)):
        Dataset.from_list(rows).to_parquet(tmp_path / f"{name}.parquet")
    retrieval = Retrieval(tmp_path)
    assert retrieval.documents == ["a", "b"]
    # The only relevant document of the corpus is first, and the missing one lowers the score: 1 / (1 + 1 / log2(3)).
    found = retrieval.ndcg(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert found == pytest.approx(0.6131, abs=1e-4)


def test_driver_overhead_reports_the_time_per_trial(bench):
    found = bench("driver_overhead", "--space", "tiny", "--trials", "120")
    assert set(found["ms_per_trial"]) == {"100", "mean"} == set(found["cpu_ms_per_trial"])
    assert found["outcomes"]["evaluated"] == 120
