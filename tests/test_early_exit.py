"""Networks that texts leave early: in the supernet, extracted, served and measured."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from tiny import make_rows, make_tokenizer, mixed_space
from tolerance import assert_same

from nas.budget import Budget
from nas.data import prepare
from nas.device import Device
from nas.evaluate.accuracy import Evaluator
from nas.export.artefact import ONNX_FILE, write_artefact
from nas.latency.exits import _forced, measure_with_exits
from nas.latency.record import LatencyRecord, latency_metrics, mixture
from nas.latency.runner import onnx_session
from nas.model.modeling import first_confident
from nas.model.stock import from_stock
from nas.space import SearchSpace, shipped_spaces
from nas.study import Task
from nas.supernet import BertSupernet, SupernetWeights
from nas.supernet.distillation import Knowledge, LossWeights, distillation_loss
from nas.tasks import ClassMetric, task_kind


@pytest.fixture
def space() -> SearchSpace:
    return mixed_space()


def _early(space, threshold=0.9):
    return replace(space.largest(), exit_threshold=threshold)


def test_a_text_gets_the_first_logits_that_are_sure_enough():
    every = tuple(
        torch.tensor(rows) for rows in ([[5.0, 0.0], [0.1, 0.0]], [[0.0, 9.0], [0.0, 6.0]], [[1.0, 0.0], [2.0, 0.0]])
    )
    logits, left_after = first_confident(every, 0.9)
    assert left_after.tolist() == [1, 2] and logits.tolist() == [[5.0, 0.0], [0.0, 6.0]]
    logits, left_after = first_confident(every, 0.99999)
    assert left_after.tolist() == [3, 3] and logits.tolist() == [[1.0, 0.0], [2.0, 0.0]]


@pytest.mark.parametrize("size", [1, 5])
def test_a_served_network_leaves_where_the_model_does(space, supernet_weights, batch, tmp_path, size):
    """Texts one by one, and together: whoever is sure keeps its logits while the others go on."""
    supernet = BertSupernet(supernet_weights)
    places = set()
    for threshold in (0.6, 0.9):
        model = supernet.extract(_early(space, threshold))
        with torch.no_grad():
            for layer in model.layers[:-1]:
                layer.exit.weight.mul_(2.0)  # some are sure early, some are not
        write_artefact(model, make_tokenizer(), tmp_path / "export")
        session = onnx_session(str(tmp_path / "export" / ONNX_FILE), 1)
        for start in range(0, 5, size):
            part = {name: value[start : start + size] for name, value in batch.items()}
            with torch.no_grad():
                expected = model(**part, details=True)
            logits, left_after = session.run(None, {name: value.numpy() for name, value in part.items()})
            assert_same(logits, expected.logits)
            assert left_after[:, 0].tolist() == expected.left_after.tolist()
            places |= set(left_after[:, 0].tolist())
    assert len(places) > 1


def test_exits_learn_from_the_teacher(space, teacher, batch):
    """Every exit has a share in the loss, and narrow networks have exits of their own width."""
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size, space.compression, exits=True)
    weights.fit([batch])
    supernet, kind = BertSupernet(weights), task_kind("classification")
    for hidden in space.dimensions.hidden_size:
        architecture = replace(_early(space), hidden_size=hidden)
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
    data = prepare(task, str(tmp_path / "train.parquet"), str(tmp_path / "test.parquet"), make_tokenizer(), 0)
    return data.search


def test_an_evaluation_says_where_texts_leave(space, supernet_weights, searched):
    evaluator = Evaluator(BertSupernet(supernet_weights), searched, ClassMetric("accuracy"))
    found = evaluator.evaluate(_early(space, 0.6))
    assert len(found.exits) == 3 and sum(found.exits) == pytest.approx(1.0, abs=1e-5)
    assert evaluator.evaluate(space.largest()).exits == ()
    assert type(found).from_json(found.to_json()) == found


@pytest.mark.parametrize("threads", [1, 3])
def test_networks_with_exits_share_layers_and_threads_and_lose_nothing(space, supernet_weights, searched, threads):
    """Each finds what the model by itself does, whatever others computed before."""
    rng, before = random.Random(0), torch.get_num_threads()
    supernet = BertSupernet(supernet_weights)
    evaluator, candidates = Evaluator(supernet, searched, ClassMetric("accuracy"), raced=False), [_early(space, 0.6)]
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


def test_networks_with_exits_race(space, supernet_weights, searched):
    evaluator = Evaluator(BertSupernet(supernet_weights), searched, ClassMetric("accuracy"))
    whole = evaluator.evaluate(_early(space, 0.6))
    lost = evaluator.evaluate(_early(space, 0.9), to_beat=1.5)
    assert whole.complete and not lost.complete and lost.examples < whole.examples
    assert sum(lost.exits) == pytest.approx(1.0, abs=1e-5)


def test_layers_that_another_network_with_exits_computed_are_not_computed_again(
    space, supernet_weights, searched, monkeypatch
):
    evaluator = Evaluator(BertSupernet(supernet_weights), searched, ClassMetric("accuracy"), raced=False)
    evaluator.evaluate(_early(space, 0.999999))
    computed = []
    after = type(supernet_weights.bert).after
    monkeypatch.setattr(
        type(supernet_weights.bert),
        "after",
        lambda self, number, hidden: computed.append(number) or after(self, number, hidden),
    )
    evaluator.evaluate(_early(space, 0.9))
    assert computed == []


def test_layers_that_no_text_needs_are_not_computed(space, supernet_weights, searched):
    with torch.no_grad():
        for layer in supernet_weights.layers[:-1]:
            layer.exit.bias[0] = 100.0
    evaluator = Evaluator(BertSupernet(supernet_weights), searched, ClassMetric("accuracy"))
    assert evaluator.evaluate(_early(space, 0.9)).exits == (1.0, 0.0, 0.0)
    assert [len(states) for states in evaluator.states._states] == [len(evaluator.batches)] * 2 + [0, 0]


def test_all_texts_leave_a_forced_network_where_they_shall(space, supernet_weights, batch):
    for depth, forced in _forced(BertSupernet(supernet_weights).extract(_early(space))):
        with torch.no_grad():
            assert forced(**batch, details=True).left_after.tolist() == [depth] * 5


def test_a_threshold_that_is_always_reached_is_refused(nas, tiny_study, tmp_path):
    text = shipped_spaces()["tiny"].read_text()
    (tiny_study.parent / "early.toml").write_text(text.replace("[0, 1]]", "[0, 1]]\nexit_threshold = [0.5, 0.9]"))
    study = tiny_study.read_text().replace("sequence_length = 32", 'sequence_length = "task"')
    tiny_study.write_text(study.replace('name = "tiny"', 'name = "early.toml"'))
    code, _, error = nas("train", str(tiny_study), "--runs", str(tmp_path / "runs"))
    assert code == 2 and "exit_threshold must be above 1/2" in error and "0.5; raise it" in error


def test_a_measurement_mixes_those_of_each_depth(space, supernet_weights):
    model = BertSupernet(supernet_weights).extract(_early(space))
    device = Device(name="cpu", sequence_length=16)
    networks = {"early": model, "teacher": supernet_weights}
    records = measure_with_exits(device, networks, {"early": (0.5, 0.3, 0.2)}, rounds=2, title="Testing")
    assert records.keys() == {"early", "early/worst", "teacher"}
    assert len(records["early"].samples_ms) == 1000


def test_a_mixture_has_each_way_as_often_as_its_share():
    device = Device(name="cpu")
    short, long = (LatencyRecord((value,) * 7, device, {}, "now") for value in (1.0, 5.0))
    mixed = mixture([short, long], (0.75, 0.25))
    assert mixed.p50_ms == 1.0 and mixed.p95_ms == 5.0 and mixed.expected_ms == pytest.approx(2.0)
    assert latency_metrics(mixed, long)["worst_ms"] == 5.0


TEACHER_FIGURES = dict.fromkeys(("p50_ms", "worst_ms", "size_mb"), 10.0) | {"params": 20, "throughput_per_s": 100.0}


def test_budgets_limit_each_figure_by_itself():
    figures = {"p50_ms": 1.0, "p95_ms": 1.5, "expected_ms": 2.0, "worst_ms": 5.0, "throughput_per_s": 500.0}
    figures |= {"size_mb": 3.0, "params": 10, "peak_memory_mb": 80.0}
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
    for given, met in limits:
        (limited,) = Budget(name="b", device="cpu", **given).limits
        assert (limited.violation(figures, TEACHER_FIGURES) <= 0.0) == met, given
