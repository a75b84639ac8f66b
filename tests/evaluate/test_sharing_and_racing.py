"""Evaluation of candidates: shared layers and racing make it cheaper without changing results; standard errors."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from searching import write_search
from tiny import mixed_space
from tolerance import assert_same, is_same

from nas.architecture import Architecture, Layer, compress_all
from nas.data import TaskData
from nas.errors import DataError
from nas.evaluate import CandidateResult, EvaluationRecipe
from nas.evaluate.accuracy import Evaluator
from nas.evaluate.racing import Race
from nas.evaluate.shared import SharedStates, longest_prefix, prefix_keys, shared_depth
from nas.evaluate.spread import standard_error
from nas.space import SearchSpace
from nas.supernet import BertSupernet
from nas.tasks import ClassMetric, Correlation
from nas.threads import side_by_side

SPACE = SearchSpace.load("tiny")


@pytest.fixture
def parts(tmp_path):
    folder = write_search(tmp_path)
    return BertSupernet.load(folder / "supernet"), TaskData.load(folder / "data").search


def _relatives(count, rng):
    """Return mutants of each other, many of which share their first layers."""
    found = [SPACE.largest()]
    while len(found) < count:
        found.append(SPACE.mutate(rng.choice(found), rng, rate=0.2))
    return found


@pytest.mark.parametrize("limit_bytes", [2**30, 60_000, 0])
@torch.inference_mode()
def test_shared_states_change_no_result(parts, limit_bytes):
    """Also if there is memory for only some of the states, or for none."""
    supernet, split = parts
    unshared = Evaluator(supernet, split, ClassMetric("accuracy"), shared=False, raced=False)
    shared = Evaluator(supernet, split, ClassMetric("accuracy"), raced=False)
    shared.states = SharedStates(limit_bytes)
    for architecture in _relatives(12, random.Random(0)):
        found = shared._outputs(supernet.extract(architecture), architecture)
        expected = unshared._outputs(supernet.extract(architecture), architecture)
        assert np.array_equal(found.rows, expected.rows)
        assert_same(found.logits, expected.logits)
        assert shared.evaluate(architecture).accuracy == unshared.measure(supernet.extract(architecture))[0]


def test_only_layers_that_are_not_shared_are_computed_again(parts, monkeypatch):
    supernet, split = parts
    evaluator = Evaluator(supernet, split, ClassMetric("accuracy"), raced=False)
    largest = SPACE.largest()
    *first, last = largest.layers
    relative = replace(largest, layers=(*first, replace(last, intermediate_size=8)))
    evaluator.evaluate(largest)
    seen = []
    run = type(supernet.weights.bert).after
    monkeypatch.setattr(
        type(supernet.weights.bert),
        "after",
        lambda self, number, hidden: seen.append(number) or run(self, number, hidden),
    )
    evaluator.evaluate(relative)
    assert set(seen) == {2} and len(seen) == len(evaluator.batches)


def test_equal_prefix_keys_mean_equal_embeddings_and_layers(parts):
    """Every change of an architecture in a mixed space changes the key of its layer."""
    space, rng = mixed_space(), random.Random(0)
    for _ in range(200):
        one = space.sample(rng)
        other = space.mutate(one, rng, rate=0.1)
        depth = shared_depth(prefix_keys(one), prefix_keys(other))
        ends = one.hidden_size, one.embedding
        assert (depth == 0) == (ends != (other.hidden_size, other.embedding))
        if depth:
            assert one.layers[: depth - 1] == other.layers[: depth - 1]


def test_a_layer_that_computes_only_the_first_token_has_another_key():
    layers = tuple(Layer(source, 4, 64) for source in range(3))
    short, long = Architecture(32, layers[:2]), Architecture(32, layers)
    assert shared_depth(prefix_keys(short), prefix_keys(long)) == 2  # embeddings and the first layer


def test_the_candidate_with_the_longest_shared_prefix_goes_first():
    largest, smallest = SPACE.largest(), SPACE.smallest()
    last = prefix_keys(largest)
    assert longest_prefix([smallest, largest, largest], last) == 1
    assert longest_prefix([smallest, largest], []) == 0


def test_a_race_stops_candidates_that_cannot_win_and_hardly_ever_others():
    """The candidates give the same answers except for some examples. Worse ones are stopped, equal ones are not."""
    rng, examples = np.random.default_rng(0), 4000
    easy = rng.random(examples) < 0.85
    race = Race(examples)

    def candidate(flipped):
        return easy ^ (rng.random(examples) < flipped)

    for _ in range(10):
        race.add(candidate(0.02))

    def examples_seen(right, to_beat):
        for seen in range(200, examples, 200):
            if race.is_lost(np.arange(seen), right[:seen], to_beat):
                return seen
        return examples

    to_beat = float(np.mean(candidate(0.02)))
    worse = [examples_seen(candidate(0.12), to_beat) for _ in range(20)]
    assert np.mean(worse) < 0.4 * examples
    winners = [right for right in (candidate(0.02) for _ in range(200)) if right.mean() >= to_beat]
    assert len(winners) > 50 and sum(examples_seen(right, to_beat) < examples for right in winners) <= 1


def test_the_objective_is_the_mean_probability_of_the_right_answer(parts):
    """It is computed here from the logits. The accuracy is reported as well."""
    supernet, split = parts
    labels = torch.tensor(split["labels"])
    evaluator = Evaluator(supernet, split, ClassMetric("accuracy"), raced=False)
    for architecture in _relatives(4, random.Random(0)):
        answers = evaluator._outputs(supernet.extract(architecture), architecture)
        logits = torch.from_numpy(answers.logits)[np.argsort(answers.rows)]
        right = logits.softmax(dim=-1)[torch.arange(len(labels)), labels]
        result = evaluator.evaluate(architecture)
        assert_same(torch.tensor(result.objective), right.mean())
        assert result.confidence == result.objective
        assert result.accuracy == pytest.approx((logits.argmax(dim=-1) == labels).float().mean().item())
        known = CandidateResult.from_json(result.to_json())
        assert known == result


@pytest.mark.parametrize("metric, by_confidence", [("f1", True), ("accuracy", False)])
def test_without_confidence_the_objective_is_the_metric_itself(parts, metric, by_confidence):
    supernet, split = parts
    evaluator = Evaluator(supernet, split, ClassMetric(metric), by_confidence=by_confidence)
    result = evaluator.evaluate(SPACE.largest())
    assert result.confidence is None and result.objective == result.accuracy


def test_a_stopped_candidate_has_estimates_of_objective_and_accuracy(parts):
    """The race compares probabilities, and the accuracy is estimated in addition."""
    supernet, split = parts
    raced, whole = (Evaluator(supernet, split, ClassMetric("accuracy"), raced=raced) for raced in (True, False))
    relatives = _relatives(12, random.Random(1))
    for architecture in relatives[:6]:
        raced.evaluate(architecture)
    results = [raced.evaluate(architecture, to_beat=0.999) for architecture in relatives[6:]]
    stopped = [result for result in results if not result.complete]
    assert stopped
    for result in stopped:
        expected = whole.evaluate(result.architecture)
        assert result.examples < expected.examples
        assert abs(result.objective - expected.objective) < 0.2 and abs(result.accuracy - expected.accuracy) < 0.2


def test_a_candidate_that_agrees_with_all_others_so_far_is_not_stopped():
    """It may still differ from them on the rest of the examples."""
    race, rows = Race(5000), np.arange(600)
    for wrong in (500, 400):
        race.add(np.arange(5000) < 5000 - wrong)
    assert not race.is_lost(rows, np.ones(600, dtype=bool), to_beat=0.915)


def test_the_estimate_for_a_stopped_candidate_is_within_its_error():
    rng, examples = np.random.default_rng(0), 2000
    easy, race = rng.random(examples) < 0.8, Race(examples)
    for _ in range(5):
        race.add(easy ^ (rng.random(examples) < 0.05))
    right = easy ^ (rng.random(examples) < 0.2)
    estimate, error = race.estimate(np.arange(500), right[:500])
    assert abs(estimate - right.mean()) < 3 * error < 0.1


def test_texts_with_too_few_tokens_can_be_left_out(tmp_path):
    folder = write_search(tmp_path)
    recipe = EvaluationRecipe(folder / "supernet", folder / "data", ClassMetric("accuracy"))
    lengths = np.asarray(TaskData.load(folder / "data").search["length"])
    least = int(np.median(lengths)) + 1
    found = replace(recipe, least_tokens=least).load()
    assert len(found.labels) == (lengths >= least).sum() < len(recipe.load().labels)
    with pytest.raises(DataError, match=r"lower search\.least_tokens"):
        replace(recipe, least_tokens=500).load()


def test_the_result_of_a_stopped_candidate_is_incomplete(tmp_path):
    folder = write_search(tmp_path)
    recipe = EvaluationRecipe(folder / "supernet", folder / "data", ClassMetric("accuracy"))
    evaluator = recipe.load()
    whole = evaluator.evaluate(SPACE.largest())
    assert whole.complete and whole.examples == len(evaluator.labels)
    stopped = evaluator.evaluate(SPACE.smallest(), to_beat=1.5)
    assert not stopped.complete and 0 < stopped.examples < whole.examples
    assert evaluator.evaluate(SPACE.smallest()).complete


def test_the_number_of_threads_changes_no_result(parts):
    """Also if a race is lost: batches that other threads have computed in the meantime do not count."""

    def results(threads: int) -> list[CandidateResult]:
        torch.set_num_threads(threads)
        evaluator = Evaluator(*parts, ClassMetric("accuracy"))
        found = [evaluator.evaluate(SPACE.largest()), evaluator.evaluate(SPACE.smallest(), to_beat=1.5)]
        assert torch.get_num_threads() == threads
        return [replace(result, seconds=0.0) for result in found]

    before = torch.get_num_threads()
    try:
        single, several = results(1), results(3)
    finally:
        torch.set_num_threads(before)
    assert single == several and not single[1].complete


def test_an_error_in_a_thread_is_raised_where_the_results_are_read():
    def compute(item: int) -> int:
        return 10 // item

    with side_by_side(compute, [5, 2, 1], threads=2) as results:
        assert list(results) == [2, 5, 10]
    with pytest.raises(ZeroDivisionError), side_by_side(compute, [5, 0, 1], threads=2) as results:
        list(results)


def test_an_evaluator_uses_the_processor_that_its_recipe_names(tmp_path):
    """The test uses `meta`, which exists on every machine. Weights and texts must be on it."""
    folder = write_search(tmp_path)
    evaluator = EvaluationRecipe(folder / "supernet", folder / "data", ClassMetric("accuracy"), processor="meta").load()
    texts = {value.device.type for batch in evaluator.batches for value in batch.inputs.values()}
    assert texts == {parameter.device.type for parameter in evaluator.supernet.weights.parameters()} == {"meta"}


def test_a_judged_network_is_moved_to_the_processor_and_back(parts, monkeypatch):
    evaluator, seen = Evaluator(*parts, ClassMetric("accuracy")), []
    model = evaluator.network(SPACE.largest())
    move = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, where: seen.append(str(where)) or move(self, where))
    accuracy, error = evaluator.judged(model)
    assert seen == [evaluator.processor, "cpu"] and 0.0 < error < 0.2
    assert accuracy == evaluator.evaluate(SPACE.largest()).accuracy


def test_the_standard_error_of_an_accuracy_is_near_the_binomial_one():
    labels = np.arange(2000) % 2
    right = np.random.default_rng(0).random(2000) < 0.9
    logits = np.eye(2)[np.where(right, labels, 1 - labels)]
    assert standard_error(ClassMetric("accuracy"), logits, labels) == pytest.approx((0.9 * 0.1 / 2000) ** 0.5, rel=0.15)


def test_the_standard_error_of_a_correlation_is_near_fisher_s():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=1000)
    scores = 0.8 * labels + 0.6 * rng.normal(size=1000)
    assert standard_error(Correlation("pearson"), scores[:, None], labels) == pytest.approx(
        (1 - 0.8**2) / 1000**0.5, rel=0.2
    )


@pytest.mark.parametrize(
    "metric",
    [ClassMetric("f1"), ClassMetric("matthews_correlation"), Correlation("spearman"), Correlation("pearson")],
    ids=lambda metric: metric.name,
)
def test_the_standard_error_of_few_texts_is_finite_and_causes_no_warning(metric):
    """A bootstrap sample of so few texts may contain only one class."""
    labels = np.array([0, 1, 1, 1])
    logits = np.random.default_rng(0).normal(size=(4, 2))
    assert np.isfinite(standard_error(metric, logits, labels))


@pytest.mark.parametrize("choice", ["none", "int8"])
@torch.inference_mode()
def test_bf16_changes_hidden_states_only_by_rounding(parts, monkeypatch, choice):
    supernet, split = parts
    exact = Evaluator(supernet, split, ClassMetric("accuracy"), bf16=False)
    monkeypatch.setattr("nas.evaluate.accuracy.uses_bf16", lambda hidden_size, processor: True)
    rounded = Evaluator(supernet, split, ClassMetric("accuracy"))
    architecture = compress_all(SPACE.largest(), choice)
    for evaluator in (exact, rounded):
        evaluator.evaluate(architecture)
    kept = [evaluator.states._states[-1][0] for evaluator in (exact, rounded)]
    assert not is_same(kept[1], kept[0])
    assert_same(kept[1], kept[0], "bf16")
