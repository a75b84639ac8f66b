"""The uniform baseline, the measurement of a budget's best candidates, and the importance of dimensions."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from driver import BUDGETS, costs_of, trials_of

from nas.budget import Budget
from nas.compression import BLOCKS
from nas.evaluate import CandidateResult, EvaluationRecipe, Memory
from nas.latency.measure import Texts
from nas.latency.record import LatencyRecord
from nas.model import CompactBert
from nas.search import search, selection
from nas.search.executors import CachingExecutor, InlineExecutor
from nas.search.selection import Measurement, measure_budget
from nas.search.uniform import best_uniform, most_uniform, uniform_networks
from nas.space import SearchSpace
from nas.supernet import BertSupernet
from nas.tasks import ClassMetric

SPACE = SearchSpace.load("tiny")


class _OneByOne:
    """An executor that takes one network at a time and evaluates it with a function."""

    capacity = 1

    def __init__(self, evaluate):
        self._evaluate, self._waiting = evaluate, []

    def submit(self, ticket, architecture, to_beat):
        self._waiting.append((ticket, architecture, to_beat))

    def next_result(self):
        ticket, architecture, to_beat = self._waiting.pop()
        return ticket, self._evaluate(architecture, to_beat)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        assert not self._waiting


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.name)
def test_uniform_networks_are_the_widest_within_a_budget(search_folder, budget):
    costs = costs_of(search_folder)
    found = list(uniform_networks(SPACE, costs, budget))
    assert found and len({(len(item.layers), item.hidden_size) for item in found}) == len(found)
    for network in found:
        assert SPACE.contains(network) and costs.cautious_violation(network, budget) <= 0.0
        assert len({replace(layer, source=0) for layer in network.layers}) == 1 == len(network.choices)
        first = network.layers[0]
        assert first.intermediate_size == {1: 8, 2: 24, 4: 64}[first.num_attention_heads]
        if wider := {1: (2, 24), 2: (4, 64)}.get(first.num_attention_heads):
            heads, size = wider
            layers = (replace(layer, num_attention_heads=heads, intermediate_size=size) for layer in network.layers)
            assert costs.cautious_violation(replace(network, layers=tuple(layers)), budget) > 0.0


@pytest.mark.parametrize("method", ["int8", "static_int8"])
def test_uniform_networks_are_stored_in_8_bits_if_they_can_then_be_wider(method):
    """Each head costs 1, or 0.5 in 8 bits, and a network may cost 4. There are networks of 1, 2 and 4 heads."""
    methods = {block: ["none", method] for block in BLOCKS}
    space = SearchSpace.model_validate(SPACE.model_dump() | {"compression": methods})

    def violation(network, budget):
        heads = sum(layer.num_attention_heads for layer in network.layers)
        return (0.5 * heads if network.embedding == method else heads) - 4.0

    found = list(uniform_networks(space, SimpleNamespace(cautious_violation=violation), BUDGETS[0]))
    assert len(found) == most_uniform(space, 1) == 9
    expected = {1: ("none", 4), 2: (method, 4), 3: (method, 2)}
    for network in found:
        assert (network.embedding, network.layers[0].num_attention_heads) == expected[len(network.layers)]


def test_three_uniform_networks_are_kept_and_later_ones_must_beat_the_third(search_folder):
    costs, to_beats = replace(costs_of(search_folder), budgets=BUDGETS[:1]), []

    def evaluate(architecture, to_beat):
        to_beats.append(to_beat)
        accuracy = 1.0 - 0.1 * len(architecture.layers) - 0.001 * len(to_beats)
        return CandidateResult(architecture, accuracy, 120, 0.0, complete=accuracy >= to_beat)

    found = best_uniform(lambda: _OneByOne(evaluate), SPACE, costs)[BUDGETS[0].name]
    assert [len(result.architecture.layers) for result in found] == [1, 1, 1]
    assert to_beats[:3] == [0.0, 0.0, 0.0] and set(to_beats[3:]) == {found[-1].accuracy}


def test_a_uniform_network_of_several_budgets_is_evaluated_once(search_folder):
    alike = (BUDGETS[0], BUDGETS[0].model_copy(update={"name": "again"}), *BUDGETS[1:])
    costs, seen = replace(costs_of(search_folder), budgets=alike), []

    def evaluate(architecture, to_beat):
        seen.append(architecture)
        return CandidateResult(architecture, 0.5 + len(architecture.layers) / 10, 120, 0.0)

    found = best_uniform(lambda: _OneByOne(evaluate), SPACE, costs)
    assert found["again"] == found[BUDGETS[0].name] and len(found) == len(alike)
    assert len(seen) == len(set(seen)) <= most_uniform(SPACE, len(alike))
    for budget in alike:
        assert {result.architecture for result in found[budget.name]} <= set(uniform_networks(SPACE, costs, budget))


def test_no_executor_is_created_if_no_uniform_network_meets_a_budget(search_folder):
    """On a cluster, an executor occupies its workers as soon as it is created."""
    budget = Budget(name="tight", device="cpu", p50_ms="0.001%")
    costs = replace(costs_of(search_folder), budgets=(budget,))

    def refuse():
        raise AssertionError("there is nothing to evaluate")

    assert best_uniform(refuse, SPACE, costs) == {budget.name: []}


def test_uniform_networks_and_candidates_share_one_memory(search_folder, tmp_path):
    """A network that the search has evaluated is not evaluated again, and a second call evaluates nothing."""
    costs = costs_of(search_folder)
    # With this metric, no evaluation is stopped early, so all results are remembered.
    recipe = EvaluationRecipe(search_folder / "supernet", search_folder / "data", ClassMetric("matthews_correlation"))
    networks = {one for budget in BUDGETS for one in uniform_networks(SPACE, costs, budget)}
    known, memory = next(uniform_networks(SPACE, costs, BUDGETS[0])), Memory(tmp_path / "known.jsonl")
    memory.add(recipe.load().evaluate(known))
    first, second = _Counting(recipe), _Counting(recipe)
    found = best_uniform(lambda: CachingExecutor(first, memory), SPACE, costs)
    assert set(first.submitted) == networks - {known} and len(first.submitted) == len(networks) - 1
    again = CachingExecutor(second, Memory(tmp_path / "known.jsonl"))
    assert best_uniform(lambda: again, SPACE, costs) == found
    assert second.submitted == []


class _Counting(InlineExecutor):
    def __init__(self, recipe):
        super().__init__(recipe)
        self.submitted = []

    def submit(self, ticket, architecture, to_beat):
        self.submitted.append(architecture)
        super().submit(ticket, architecture, to_beat)


def test_uniform_networks_are_measured_with_the_candidates_and_reported_separately(search_folder, simulated_times):
    budget = Budget(name="most", device="cpu", p50_ms="95%")
    costs = replace(costs_of(search_folder), budgets=(budget,))
    config = copy.deepcopy(costs.config)
    config.max_position_embeddings = 128  # the device is measured with 128 tokens
    supernet = BertSupernet(CompactBert(config).eval())
    small, other = SPACE.smallest(), next(uniform_networks(SPACE, costs, budget))
    results = [CandidateResult(network, 0.9, 120, 0.0) for network in (small, other)]
    measurement = Measurement(supernet.extract, SPACE.largest(), costs, Texts())
    measured, baselines = measure_budget(measurement, results[:1], budget, 4, results[1:])
    assert [item["digest"] for item in measured] == [small.digest] and measured[0]["met"]
    assert [item["digest"] for item in baselines] == [other.digest] and baselines[0]["p50_ms"] > 0.0


def test_the_teacher_is_the_reference_of_the_networks_measured_for_a_budget(search_folder, monkeypatch):
    """The first network is measured with every group, so each candidate is compared with the teacher in its group."""
    budget, rng, seen = Budget(name="most", device="cpu", p50_ms="300%"), random.Random(0), []

    def measured(device, models, *given):
        seen.append(list(models))
        return {name: LatencyRecord((1.0,) * 4, device, {}, "now") for name in models}

    monkeypatch.setattr(selection, "measure_with_exits", measured)
    costs = replace(costs_of(search_folder), budgets=(budget,))
    results = [CandidateResult(SPACE.sample(rng), 0.9, 120, 0.0) for _ in range(45)]
    measurement = Measurement(lambda architecture: architecture, SPACE.largest(), costs, Texts())
    measure_budget(measurement, results, budget, 45)
    assert len(seen[0]) > 41 and seen[0][0] == "teacher"


def test_uniform_networks_are_measured_even_without_candidates(search_folder, fake_measurement):
    costs = costs_of(search_folder)
    uniform = [CandidateResult(one, 0.9, 120, 0.0) for one in uniform_networks(SPACE, costs, BUDGETS[0])]
    fake_measurement(lambda architecture: 1.5)
    measurement = Measurement(lambda architecture: architecture, SPACE.largest(), costs, Texts())
    candidates, baselines = measure_budget(measurement, [], BUDGETS[0], 4, uniform)
    assert all(item["met"] for item in baselines)
    assert candidates == [baselines[0] | {"uniform": True}]
    assert [item["digest"] for item in baselines] == [one.architecture.digest for one in uniform]


@pytest.mark.parametrize(("objective", "is_exported"), [(0.91, True), (0.9, False), (0.89, False)])
def test_a_uniform_network_is_a_candidate_only_if_it_is_better_than_the_candidates_that_meet_the_budget(
    search_folder, fake_measurement, objective, is_exported
):
    costs = costs_of(search_folder)
    other, *_ = uniform_networks(SPACE, costs, BUDGETS[0])
    found = [CandidateResult(SPACE.smallest(), 0.9, 120, 0.0), CandidateResult(SPACE.largest(), 0.99, 120, 0.0)]
    fake_measurement(lambda architecture: 100.0 if architecture == SPACE.largest() else 1.5)
    measurement = Measurement(lambda architecture: architecture, SPACE.largest(), costs, Texts())
    uniform = [CandidateResult(other, objective, 120, 0.0)]
    candidates, baselines = measure_budget(measurement, found, BUDGETS[0], 4, uniform)
    met = [item["digest"] for item in candidates if item["met"]]
    assert met == ([other.digest] if is_exported else []) + [SPACE.smallest().digest]
    assert [item["digest"] for item in baselines] == [other.digest] and "uniform" not in baselines[0]


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.3])
def test_measurements_correct_the_predictions_for_the_remaining_candidates(search_folder, fake_measurement, slower):
    """On a machine that has become slower or faster, the next candidates are those that meet the budget there.

    More expensive candidates are more accurate. The limit is 1.6 ms, and predictions are trusted up to 2 % above it.
    """
    costs, budget = costs_of(search_folder), BUDGETS[0]
    used = {one: 1.0 + costs.violation(one, budget) for one in {SPACE.sample(random.Random(n)) for n in range(300)}}
    results = [CandidateResult(one, share, 120, 0.0) for one, share in used.items()]
    rounding = 1e-9  # latencies are shorter by this much, so that rounding does not decide whether a limit is met
    groups = fake_measurement(lambda one: 1.6 * used[one] * slower * (1.0 - rounding))
    measurement = Measurement(lambda architecture: architecture, SPACE.largest(), costs, Texts())
    found, _ = measure_budget(measurement, results, budget, 4)
    shares = [[used[one] for one in group] for group in groups]
    able = sorted((share for share in used.values() if share * slower <= 1.02 + rounding), reverse=True)
    assert len(groups) <= 4 and sum(item["met"] for item in found) >= 3
    assert shares[0] == sorted((share for share in used.values() if share <= 1.02), reverse=True)[:4]
    assert slower == 1.0 or shares[1] == able[:4]
    best = sorted((share for share in used.values() if share * slower <= 1.0 + rounding), reverse=True)[:3]
    assert [1.0 + item["excess"] for item in found if item["met"]][:3] == pytest.approx([b * slower for b in best])


def test_measurements_correct_predicted_latencies_but_not_numbers_of_parameters(search_folder, fake_measurement):
    """All networks are twice as fast as predicted. Some that seemed too slow are measured, but no larger ones."""
    costs = costs_of(search_folder)
    sample = {SPACE.sample(random.Random(number)) for number in range(200)}
    params = {one: costs.metrics(one, "cpu", (), ["params"])["params"] for one in sample}
    limit = sorted(params.values())[100]
    budget = Budget(name="both", device="cpu", p50_ms="20%", params=limit)
    predicted_ms = {one: costs.predict_ms(one)["cpu"] for one in sample}
    results = [CandidateResult(one, value / 10, 120, 0.0) for one, value in predicted_ms.items()]
    groups = fake_measurement(lambda one: 0.5 * predicted_ms[one])
    measurement = Measurement(lambda architecture: architecture, SPACE.largest(), costs, Texts())
    measure_budget(measurement, results, budget, 4)
    measured = [one for group in groups for one in group]
    assert any(costs.violation(one, budget) > 0.1 for one in measured), "none that was predicted to be too slow"
    assert all(params[one] <= limit * 1.02 for one in measured)


def test_memory_on_a_device_outside_the_cluster_is_predicted_if_its_profile_has_memory(search_folder):
    costs, budget = costs_of(search_folder), BUDGETS[0]
    profile = costs.profiles["cpu"]
    for memory in (None, (5.0, 2.0)):
        away = replace(profile, device=profile.device.model_copy(update={"where": "elsewhere"}), memory=memory)
        measurement = Measurement(lambda _: None, SPACE.largest(), replace(costs, profiles={"cpu": away}), Texts())
        result = CandidateResult(SPACE.smallest(), 0.9, 120, 0.0)
        (found,), _ = measure_budget(measurement, [result], budget, 4)
        assert found["met"] and not found["measured"] and found["p50_ms"] == costs.predict_ms(SPACE.smallest())["cpu"]
        assert found.get("peak_memory_mb") == (
            pytest.approx(5.0 + 2.0 * found["size_mb"], abs=0.01) if memory else None
        )


def test_the_dimensions_that_determine_the_accuracy_are_the_most_important_ones(search_folder):
    """If all sizes are equally frequent, the hidden size explains 91 % of the variance, and int8 embeddings 9 %."""

    def evaluated(architecture, to_beat):
        accuracy = 0.3 + 0.2 * SPACE.dimensions.hidden_size.index(architecture.hidden_size)
        return CandidateResult(architecture, accuracy + 0.1 * (architecture.embedding == "int8"), 120, 0.0)

    trials = trials_of(search_folder, sampler="random")
    state = search(trials, 60, lambda: _OneByOne(evaluated))
    found = trials.importance()
    assert list(found)[:2] == ["hidden_size", "embedding"]
    assert found["hidden_size"] == pytest.approx(0.91, abs=0.1) and found["embedding"] == pytest.approx(0.09, abs=0.08)
    assert set(found) == {
        "layers", "hidden_size", "embedding",
        *(f"{block}_{layer}" for block in ("attention", "feed_forward") for layer in range(3)),
    }  # fmt: skip
    assert max(list(found.values())[2:]) < 0.02
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert trials.numbers() == state.numbers == sorted(state.numbers) and len(state.numbers) == 60
