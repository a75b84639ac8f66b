"""Networks with early exits: settings, training, evaluation, export and measurement."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from tiny import make_rows, make_tokenizer, mixed_space, prepare, write_label_study, write_rank_study, write_tag_study
from tolerance import assert_same

from nas.budget import Budget
from nas.device import Device
from nas.errors import StudyError
from nas.evaluate.accuracy import Evaluator
from nas.export.artefact import ONNX_FILE, write_artefact
from nas.latency.exits import at_each_depth, measure_with_exits
from nas.latency.record import LatencyRecord, latency_metrics, mixture
from nas.model.modeling import first_confident
from nas.model.stock import from_stock
from nas.runtimes.runner import onnx_session
from nas.space import SearchSpace, shipped_spaces
from nas.study import Study, Task
from nas.supernet import BertSupernet, SupernetWeights
from nas.supernet.distillation import Knowledge, LossWeights, distillation_loss
from nas.tasks import ClassMetric, task_kind


@pytest.fixture
def space() -> SearchSpace:
    return mixed_space()


def _with_exits(space, threshold=0.9):
    return replace(space.largest(), exit_threshold=threshold)


def test_a_text_exits_at_the_first_layer_that_is_confident_enough():
    logits_per_layer = tuple(
        torch.tensor(rows) for rows in ([[5.0, 0.0], [0.1, 0.0]], [[0.0, 9.0], [0.0, 6.0]], [[1.0, 0.0], [2.0, 0.0]])
    )
    logits, left_after = first_confident(logits_per_layer, 0.9)
    assert left_after.tolist() == [1, 2] and logits.tolist() == [[5.0, 0.0], [0.0, 6.0]]
    logits, left_after = first_confident(logits_per_layer, 0.99999)
    assert left_after.tolist() == [3, 3] and logits.tolist() == [[1.0, 0.0], [2.0, 0.0]]


@pytest.mark.parametrize("size", [1, 5])
def test_texts_exit_from_the_onnx_file_after_the_same_layers_as_from_the_model(
    space, supernet_weights, batch, tmp_path, size
):
    """In a batch, a confident text keeps its logits while the network continues for the other texts."""
    supernet = BertSupernet(supernet_weights)
    depths = set()
    for threshold in (0.6, 0.9):
        model = supernet.extract(_with_exits(space, threshold))
        with torch.no_grad():
            for layer in model.layers[:-1]:
                layer.exit.weight.mul_(2.0)  # makes some texts confident early
        write_artefact(model, make_tokenizer(), tmp_path / "export")
        session = onnx_session(str(tmp_path / "export" / ONNX_FILE), 1)
        for start in range(0, 5, size):
            part = {name: value[start : start + size] for name, value in batch.items()}
            with torch.no_grad():
                expected = model(**part, details=True)
            logits, left_after = session.run(None, {name: value.numpy() for name, value in part.items()})
            assert_same(logits, expected.logits)
            assert left_after[:, 0].tolist() == expected.left_after.tolist()
            depths |= set(left_after[:, 0].tolist())
    assert len(depths) > 1


def test_all_exits_are_trained_at_every_hidden_size(space, teacher, batch):
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size, space.compression, exits=True)
    weights.fit([batch])
    supernet, kind = BertSupernet(weights), task_kind("classification")
    for hidden in space.dimensions.hidden_size:
        architecture = replace(_with_exits(space), hidden_size=hidden)
        weights.zero_grad()
        known = Knowledge.of(weights(**batch, output_hidden_states=True, details=True), [])
        found = Knowledge.of(supernet.run(architecture, **batch, output_hidden_states=True), [])
        assert len(found.logits) == 3 and len(known.logits) == 1
        distillation_loss(found, known, architecture, batch["attention_mask"], LossWeights(1.0, 0.0), kind).backward()
        for layer in weights.layers[:-1]:
            assert layer.exit.weight.grad[:, :hidden].abs().sum() > 0
    assert not hasattr(weights.layers[-1], "exit")


@pytest.fixture
def searched(tmp_path):
    """A search set of 120 texts."""
    make_rows(160, 0).to_parquet(tmp_path / "train.parquet")
    make_rows(20, 1).to_parquet(tmp_path / "test.parquet")
    task = Task(train="train.parquet", test="test.parquet", text=("text",), max_length=16, holdout={"size": 120})
    data = prepare(task, str(tmp_path / "train.parquet"), str(tmp_path / "test.parquet"))
    return data.search


def test_an_evaluation_reports_the_share_of_texts_that_exit_after_each_layer(space, supernet_weights, searched):
    evaluator = Evaluator(BertSupernet(supernet_weights), searched, ClassMetric("accuracy"))
    found = evaluator.evaluate(_with_exits(space, 0.6))
    assert len(found.exits) == 3 and sum(found.exits) == pytest.approx(1.0, abs=1e-5)
    assert evaluator.evaluate(space.largest()).exits == ()
    assert type(found).from_json(found.to_json()) == found


@pytest.mark.parametrize("threads", [1, 3])
def test_results_do_not_depend_on_threads_or_on_networks_evaluated_before(space, supernet_weights, searched, threads):
    rng, before = random.Random(0), torch.get_num_threads()
    supernet = BertSupernet(supernet_weights)
    evaluator = Evaluator(supernet, searched, ClassMetric("accuracy"), raced=False)
    candidates = [_with_exits(space, 0.6)]
    while len(candidates) < 12:
        drawn = space.mutate(rng.choice(candidates), rng, rate=0.15)
        candidates.append(replace(drawn, exit_threshold=rng.choice([0.6, 0.9])) if len(drawn.layers) > 1 else drawn)
    torch.set_num_threads(threads)
    try:
        for candidate in candidates:
            found = evaluator.evaluate(candidate)
            assert (found.accuracy, found.exits) == evaluator.measure(supernet.extract(candidate))
    finally:
        torch.set_num_threads(before)


def test_the_evaluation_of_a_losing_network_with_exits_stops_early(space, supernet_weights, searched):
    evaluator = Evaluator(BertSupernet(supernet_weights), searched, ClassMetric("accuracy"))
    first = evaluator.evaluate(_with_exits(space, 0.6))
    loser = evaluator.evaluate(_with_exits(space, 0.9), to_beat=1.5)
    assert first.complete and not loser.complete and loser.examples < first.examples
    assert sum(loser.exits) == pytest.approx(1.0, abs=1e-5)


@pytest.fixture
def computed_layers(supernet_weights, monkeypatch):
    """The number of each layer that is computed for a batch, in order."""
    computed, after = [], type(supernet_weights.bert).after
    monkeypatch.setattr(
        type(supernet_weights.bert),
        "after",
        lambda self, number, hidden: computed.append(number) or after(self, number, hidden),
    )
    return computed


def test_layers_that_another_network_with_exits_computed_are_not_computed_again(
    space, supernet_weights, searched, computed_layers
):
    evaluator = Evaluator(BertSupernet(supernet_weights), searched, ClassMetric("accuracy"), raced=False)
    evaluator.evaluate(_with_exits(space, 0.999999))
    assert computed_layers
    computed_layers.clear()
    evaluator.evaluate(_with_exits(space, 0.9))
    assert computed_layers == []


def test_layers_that_no_text_needs_are_not_computed(space, supernet_weights, searched, computed_layers):
    with torch.no_grad():
        for layer in supernet_weights.layers[:-1]:
            layer.exit.bias[0] = 100.0
    evaluator = Evaluator(BertSupernet(supernet_weights), searched, ClassMetric("accuracy"))
    assert evaluator.evaluate(_with_exits(space, 0.9)).exits == (1.0, 0.0, 0.0)
    assert computed_layers == [0] * len(evaluator.batches)


def test_all_texts_exit_at_the_depth_that_is_measured(space, supernet_weights, batch):
    model = BertSupernet(supernet_weights).extract(_with_exits(space))
    networks = at_each_depth({"early": model}, {"early": (0.5, 0.3, 0.2)})
    assert networks.keys() == {"early/1", "early/2", "early/3"}
    for depth in (1, 2, 3):
        with torch.no_grad():
            assert networks[f"early/{depth}"](**batch, details=True).left_after.tolist() == [depth] * 5


def test_a_threshold_that_two_classes_always_reach_is_refused(nas, tiny_study, tmp_path):
    text = shipped_spaces()["tiny"].read_text()
    (tiny_study.parent / "early.toml").write_text(text.replace("[0, 1]]", "[0, 1]]\nexit_threshold = [0.5, 0.9]"))
    study = tiny_study.read_text().replace("sequence_length = 32", 'sequence_length = "task"')
    tiny_study.write_text(study.replace('name = "tiny"', 'name = "early.toml"'))
    _, error = nas("train", tiny_study, "--runs", tmp_path / "runs", code=2)
    assert "exit_threshold must be above 1/2, but is 0.5: " in error and "; raise exit_threshold" in error


@pytest.mark.parametrize(
    ("write", "dimension", "message"),
    [
        (write_label_study, "exit_threshold = [0.8]", "has early exits .* but a text may have several labels"),
        (
            write_rank_study,
            "exit_threshold = [0.8]",
            "exits .* but the scores of a query's passages are compared",
        ),
        (write_tag_study, "exit_threshold = [0.8]", "each word of a text has its own tag"),
        (write_tag_study, "keep_tokens = [4]", "needs all tokens"),
    ],
)
def test_early_exits_and_dropped_tokens_are_refused_for_other_kinds_of_task(write, dimension, message, tmp_path):
    study = write(tmp_path)
    study.write_text(study.read_text().replace('name = "few.toml"', 'name = "other.toml"'))
    space = shipped_spaces()["tiny"].read_text().replace("[dimensions]", f"[dimensions]\n{dimension}")
    (tmp_path / "other.toml").write_text(space)
    with pytest.raises(StudyError, match=message):
        Study.load(study)


def test_a_network_with_exits_is_measured_at_each_depth_and_the_samples_are_mixed(space, supernet_weights):
    model = BertSupernet(supernet_weights).extract(_with_exits(space))
    device = Device(name="cpu", sequence_length=16)
    networks = {"early": model, "teacher": supernet_weights}
    records = measure_with_exits(device, networks, {"early": (0.5, 0.3, 0.2)}, rounds=2, title="Testing")
    assert records.keys() == {"early", "early/worst", "teacher"}
    assert len(records["early"].samples_ms) == 1000


def test_a_mixture_weights_the_records_by_their_shares():
    device = Device(name="cpu")
    short, long = (LatencyRecord((value,) * 7, device, {}, "now") for value in (1.0, 5.0))
    mixed = mixture([short, long], (0.75, 0.25))
    assert mixed.p50_ms == 1.0 and mixed.p95_ms == 5.0 and mixed.expected_ms == pytest.approx(2.0)
    assert latency_metrics(mixed, long)["worst_ms"] == 5.0


TEACHER_METRICS = dict.fromkeys(("p50_ms", "worst_ms", "size_mb"), 10.0) | {"params": 20, "throughput_per_s": 100.0}


def test_a_budget_is_met_if_each_metric_meets_its_limit():
    metrics = {"p50_ms": 1.0, "p95_ms": 1.5, "expected_ms": 2.0, "worst_ms": 5.0, "throughput_per_s": 500.0}
    metrics |= {"size_mb": 3.0, "params": 10, "peak_memory_mb": 80.0}
    limits = [
        ({"p50_ms": "10%"}, True),
        ({"expected_ms": 1.9}, False),
        ({"worst_ms": "50%", "size_mb": 3.0}, True),
        ({"worst_ms": "49%"}, False),
        ({"params": 9}, False),
        ({"params": "50%", "size_mb": "30%"}, True),
        ({"p95_ms": 1.4}, False),
        ({"throughput_per_s": 400.0}, True),
        ({"throughput_per_s": "501%"}, False),
        ({"peak_memory_mb": 79.0, "p50_ms": 5.0}, False),
    ]
    for settings, met in limits:
        (limit,) = Budget(name="b", device="cpu", **settings).limits
        assert (limit.violation(metrics, TEACHER_METRICS) <= 0.0) == met, settings
