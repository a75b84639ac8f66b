"""Uniform networks and the importance of dimensions: what a search is held against, and what it learnt."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
from driver import BUDGETS, costs_of, run, trials_of

from nas.budget import Budget
from nas.evaluate import CandidateResult, EvaluationRecipe, Memory
from nas.latency.measure import Texts
from nas.latency.record import LatencyRecord
from nas.model import CompactBert
from nas.search import selection
from nas.search.executors import CachingExecutor, InlineExecutor
from nas.search.selection import Measurement, measure_budget
from nas.search.uniform import best_uniform, most_uniform, uniform_networks
from nas.space import SearchSpace
from nas.supernet import BertSupernet
from nas.tasks import ClassMetric

SPACE = SearchSpace.load("tiny")


class _OneByOne:
    """An executor that asks a function, for one network at a time."""

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
    assert found and len({(len(item.layers), item.hidden_size, item.embedding) for item in found}) == len(found)
    for network in found:
        assert SPACE.contains(network) and costs.cautious_violation(network, budget) <= 0.0
        assert len({replace(layer, source=0) for layer in network.layers}) == 1 == len(network.choices)
        first = network.layers[0]
        assert first.intermediate_size == {1: 8, 2: 24, 4: 64}[first.num_attention_heads]
        if wider := {1: (2, 24), 2: (4, 64)}.get(first.num_attention_heads):
            heads, size = wider
            layers = (replace(layer, num_attention_heads=heads, intermediate_size=size) for layer in network.layers)
            assert costs.cautious_violation(replace(network, layers=tuple(layers)), budget) > 0.0


def test_the_best_uniform_networks_race_for_three_places(search_folder):
    costs, asked = replace(costs_of(search_folder), budgets=BUDGETS[:1]), []

    def evaluate(architecture, to_beat):
        asked.append(to_beat)
        accuracy = 1.0 - 0.1 * len(architecture.layers) - 0.001 * len(asked)
        return CandidateResult(architecture, accuracy, 120, 0.0, complete=accuracy >= to_beat)

    found = best_uniform(lambda: _OneByOne(evaluate), SPACE, costs)[BUDGETS[0].name]
    assert [len(result.architecture.layers) for result in found] == [1, 1, 1]
    assert asked[:3] == [0.0, 0.0, 0.0] and set(asked[3:]) == {found[-1].accuracy}


def test_what_budgets_have_in_common_is_evaluated_once_for_all(search_folder):
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


def test_where_there_is_none_nothing_is_started(search_folder):
    """On a cluster an executor takes its workers as soon as it is made."""
    budget = Budget(name="tight", device="cpu", p50_ms="0.001%")
    costs = replace(costs_of(search_folder), budgets=(budget,))

    def refuse():
        raise AssertionError("there is nothing to evaluate")

    assert best_uniform(refuse, SPACE, costs) == {budget.name: []}


def test_uniform_networks_are_remembered_as_candidates_are(search_folder, tmp_path):
    """What a search evaluated is not evaluated for them, and a second time nothing is."""
    costs = costs_of(search_folder)
    # Only accuracies are raced: here each is evaluated wholly, so all of them are remembered.
    recipe = EvaluationRecipe(search_folder / "supernet", search_folder / "data", ClassMetric("matthews_correlation"))
    networks = {one for budget in BUDGETS for one in uniform_networks(SPACE, costs, budget)}
    known, memory = next(uniform_networks(SPACE, costs, BUDGETS[0])), Memory(tmp_path / "known.jsonl")
    memory.add(recipe.load().evaluate(known))
    first, second = _Counting(recipe), _Counting(recipe)
    found = best_uniform(lambda: CachingExecutor(first, memory), SPACE, costs)
    assert set(first.asked) == networks - {known} and len(first.asked) == len(networks) - 1
    again = CachingExecutor(second, Memory(tmp_path / "known.jsonl"))
    assert best_uniform(lambda: again, SPACE, costs) == found
    assert second.asked == []


class _Counting(InlineExecutor):
    def __init__(self, recipe):
        super().__init__(recipe)
        self.asked = []

    def submit(self, ticket, architecture, to_beat):
        self.asked.append(architecture)
        super().submit(ticket, architecture, to_beat)


def test_they_are_measured_beside_the_candidates_and_kept_apart(search_folder):
    budget = Budget(name="most", device="cpu", p50_ms="95%")
    costs = replace(costs_of(search_folder), budgets=(budget,))
    config = copy.deepcopy(costs.config)
    config.max_position_embeddings = 128  # as many tokens as the device measures
    supernet = BertSupernet(CompactBert(config).eval())
    small, other = SPACE.smallest(), next(uniform_networks(SPACE, costs, budget))
    results = [CandidateResult(network, 0.9, 120, 0.0) for network in (small, other)]
    measurement = Measurement(supernet.extract, SPACE.largest(), costs, Texts())
    measured, baselines = measure_budget(measurement, results[:1], budget, 4, results[1:])
    assert [item["digest"] for item in measured] == [small.digest] and measured[0]["met"]
    assert [item["digest"] for item in baselines] == [other.digest] and baselines[0]["p50_ms"] > 0.0


def test_the_teacher_is_the_reference_of_all_that_is_measured_for_a_budget(search_folder, monkeypatch):
    """More candidates than one group holds are compared with the teacher as it was in their own group."""
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


def test_they_are_measured_also_where_there_is_no_candidate(search_folder, monkeypatch):
    costs = costs_of(search_folder)
    others = [CandidateResult(one, 0.9, 120, 0.0) for one in uniform_networks(SPACE, costs, BUDGETS[0])]
    found = [{"digest": one.architecture.digest, "excess": 0.0, "met": True} for one in others]
    monkeypatch.setattr(selection, "_measured", lambda measurement, chosen, budget: found)
    measurement = Measurement(lambda _: None, SPACE.largest(), costs, Texts())
    assert measure_budget(measurement, [], BUDGETS[0], 4, others) == ([], found)


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.3])
def test_what_was_measured_corrects_what_is_predicted_of_the_rest(search_folder, monkeypatch, slower):
    """On a machine that has become slower, or faster, the next ones are those that keep the budget there."""
    costs, budget, groups = costs_of(search_folder), BUDGETS[0], []
    used = {one: 1.0 + costs.violation(one, budget) for one in {SPACE.sample(random.Random(n)) for n in range(300)}}
    results = [CandidateResult(one, share, 120, 0.0) for one, share in used.items()]  # the dearer, the more accurate

    def measured(measurement, chosen, budget):
        groups.append([result.accuracy for result in chosen])
        return [{"excess": share * slower - 1.0, "met": share * slower <= 1.0} for share in groups[-1]]

    monkeypatch.setattr(selection, "_measured", measured)
    found, _ = measure_budget(Measurement(lambda _: None, SPACE.largest(), costs, Texts()), results, budget, 4)
    tolerance = costs.profiles[budget.device].error["mape"]
    able = sorted((share for share in used.values() if share * slower <= 1.0 + tolerance), reverse=True)
    assert len(groups) <= 4 and sum(item["met"] for item in found) >= 3
    assert groups[0] == sorted((share for share in used.values() if share <= 1.0 + tolerance), reverse=True)[:4]
    assert slower == 1.0 or groups[1] == able[:4]
    best = sorted((share for share in used.values() if share * slower <= 1.0), reverse=True)[:3]
    assert [1.0 + item["excess"] for item in found if item["met"]][:3] == pytest.approx([b * slower for b in best])


def test_a_faster_machine_makes_no_network_smaller(search_folder, monkeypatch):
    costs, seen = costs_of(search_folder), []
    sample = {SPACE.sample(random.Random(number)) for number in range(200)}
    params = {one: costs.metrics(one, "cpu", (), ["params"])["params"] for one in sample}
    limit = sorted(params.values())[100]
    budget = Budget(name="both", device="cpu", p50_ms="20%", params=limit)
    dear = {one: costs.predict_ms(one)["cpu"] for one in sample}
    results = [CandidateResult(one, share / 10, 120, 0.0) for one, share in dear.items()]

    def measured(measurement, chosen, budget):
        seen.extend(one.architecture for one in chosen)
        excess = [costs.violation(one.architecture, budget, (), 0.5) for one in chosen]
        return [{"excess": value, "met": value <= 0.0} for value in excess]

    monkeypatch.setattr(selection, "_measured", measured)
    measure_budget(Measurement(lambda _: None, SPACE.largest(), costs, Texts()), results, budget, 4)
    assert any(costs.violation(one, budget) > 0.1 for one in seen), "some that were predicted to be too slow"
    assert all(params[one] <= limit * 1.02 for one in seen)


def test_of_a_device_elsewhere_memory_is_said_where_it_is_known(search_folder):
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


def test_importance_finds_what_accuracy_depends_on(search_folder):
    state = run(search_folder, 30, sampler="random")
    trials = trials_of(search_folder, sampler="random")
    found = trials.importance()
    assert found.keys() == trials.encoding.sizes().keys() and 0.0 < sum(found.values()) <= 1.001
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert trials.numbers() == state.numbers == sorted(state.numbers) and len(state.numbers) == 30
