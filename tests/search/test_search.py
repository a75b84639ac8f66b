"""The search loop: samplers, storage, interruptions, budgets and the Pareto front."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import forked
import pytest
import ray
import torch
from driver import BUDGETS, costs_of, run, trials_of
from optuna.trial import TrialState, create_trial

from nas.budget import Budget
from nas.errors import InfeasibleBudgetError, SearchError
from nas.evaluate import CandidateResult, EvaluationRecipe
from nas.evaluate.recipe import weights_digest
from nas.progress import logged, notifying
from nas.report.growing_front import GrowingFront
from nas.search import loop, search
from nas.search.costs import Costs, cheapest
from nas.search.executors import AHEAD, executor_for
from nas.search.front import pareto_front, ranking
from nas.search.sampler import Proposal, Trials
from nas.search.storage import Storage
from nas.space import SearchSpace
from nas.study import Search
from nas.tasks import ClassMetric

SPACE = SearchSpace.load("tiny")


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_a_search_evaluates_each_candidate_once_and_only_if_it_meets_a_budget(search_folder, sampler):
    state = run(search_folder, 30, sampler=sampler)
    costs = costs_of(search_folder)
    assert len(state.results) == 30 == state.outcomes["evaluated"]
    assert len({result.architecture for result in state.results}) == 30
    assert all(costs.least_violation(result.architecture) <= 0.0 for result in state.results)
    assert {result.examples for result in state.results if result.complete} == {120}
    assert all(result.examples < 120 for result in state.results if not result.complete)


def test_a_fixed_seed_gives_the_same_trials_and_another_run_resumes_them(search_folder):
    straight = run(search_folder, 20, where="a.log")
    assert [r.architecture for r in run(search_folder, 20, where="b.log").results] == [
        r.architecture for r in straight.results
    ]
    longer = run(search_folder, 26, where="a.log")
    assert longer.results[:20] == straight.results and len(longer.results) == 26


def test_initial_candidates_are_the_first_generation_and_another_run_continues_the_last_one(search_folder):
    def generations() -> list[int]:
        stored = trials_of(search_folder)._storage._storage.get_all_trials(0, deepcopy=False)
        return [trial.system_attrs["Generations:generation"] for trial in stored]

    run(search_folder, 24)
    first = generations()
    assert first[:8] == [0] * 8 and first == sorted(first) and first[-1] == 1
    run(search_folder, 40)
    longer = generations()
    assert longer == sorted(longer) and longer[: len(first)] == first and longer[-1] >= 2
    assert all(8 <= longer.count(generation) <= 8 + AHEAD for generation in range(longer[-1]))


def test_a_growing_front_shows_the_candidates_of_a_running_search(search_folder):
    growing = GrowingFront()
    assert "no candidate yet" in growing._repr_svg_() and growing.front() == []
    with notifying([growing]):
        state = run(search_folder, 20)
    costs = costs_of(search_folder)
    (device,) = costs.profiles
    notified = {one.architecture: one for one in growing.candidates}  # in the order of evaluation
    assert len(notified) == 20
    for result in state.results:
        one = notified[result.architecture.describe()]
        assert (one.accuracy, one.complete) == (result.accuracy, result.complete)
        assert one.predicted_ms == costs.predict_ms(result.architecture, result.exits)
    whole = [result for result in state.results if result.complete]
    expected = pareto_front(whole, lambda result: (costs.predict_ms(result.architecture)[device],))
    assert [one.accuracy for one in growing.front()] == [result.accuracy for result in expected]
    picture = growing._repr_svg_()
    assert picture.count("<circle") == 20 and picture.count("candidate best") == len(expected)
    assert f"predicted p50 ms, {device}" in picture and "20 candidates" in picture


@pytest.mark.slow
def test_ray_gives_the_same_trials_as_inline(search_folder):
    inline = run(search_folder, 12, where="inline.log")
    on_ray = run(search_folder, 12, executor="ray", where="ray.log")
    pairs = zip(on_ray.results, inline.results, strict=True)
    assert all((r.architecture, r.accuracy) == (s.architecture, s.accuracy) for r, s in pairs)
    assert on_ray.outcomes == inline.outcomes


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_requesting_gpus_that_this_machine_lacks_is_an_error_and_shuts_ray_down(search_folder):
    recipe = EvaluationRecipe(search_folder / "supernet", search_folder / "data", ClassMetric("accuracy"))
    with pytest.raises(SearchError, match=r"search.worker_gpus: must be at most 0, .*, but got 0.5; lower"):
        executor_for(Search(executor="ray", worker_gpus=0.5), recipe)
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killing_a_search_loses_only_the_candidates_in_flight(search_folder, seed):
    journal = search_folder / "journal.log"
    target = 70
    driver = Path(__file__).parent / "driver.py"
    process = forked.Program(driver, search_folder, str(target), "held", "nsga2")
    wanted = random.Random(seed).randint(5, 40)
    deadline = time.monotonic() + 120
    while _finished(journal) < wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = _results(search_folder)
    assert wanted <= len(before) < target
    state = run(search_folder, target)
    assert state.results[: len(before)] == before, "a finished trial was lost"
    assert len({result.architecture for result in state.results}) == target, "a candidate was evaluated twice"
    assert state.outcomes["lost"] <= AHEAD


def _finished(journal: Path) -> int:
    return journal.read_text().count('"result"') if journal.exists() else 0


def _results(folder: Path) -> list[CandidateResult]:
    return trials_of(folder).results()


def test_an_incomplete_last_line_of_a_journal_is_dropped(search_folder):
    first = run(search_folder, 5)
    with (search_folder / "journal.log").open("a") as stream:
        stream.write('{"op_code": 6, "worker_id": "x", "trial')
    again = run(search_folder, 8)
    assert again.results[:5] == first.results and len(again.results) == 8


@pytest.mark.parametrize("line", [b"damaged", b"\xff\xfe{", b"\0" * 20, b"{}", b"[]"])
def test_a_damaged_journal_is_refused(search_folder, line):
    run(search_folder, 2)
    journal = search_folder / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], line + b"\n", *lines[3:]]))
    with pytest.raises(SearchError, match="line 4 is not an entry of Optuna's journal"):
        trials_of(search_folder)


def test_a_storage_with_results_of_other_inputs_is_refused(search_folder):
    run(search_folder, 2)
    with pytest.raises(SearchError, match="the search was started with different inputs"):
        trials_of(search_folder, inputs="changed")


def test_weights_that_change_during_a_search_are_refused(search_folder):
    weights = search_folder / "supernet" / "model.safetensors"
    digest = weights_digest(search_folder / "supernet")
    metric = ClassMetric("accuracy")
    recipe = EvaluationRecipe(search_folder / "supernet", search_folder / "data", metric, weights=digest)
    with executor_for(Search(), recipe) as executor:
        for ticket in range(2):
            executor.submit(ticket, SPACE.smallest(), 0.0)
        executor.next_result()
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        with pytest.raises(SearchError, match="changed during a search that depends on them"):
            executor.next_result()
    trials = trials_of(search_folder)
    trials.record_dependency("weights", digest)
    trials.record_dependency("weights", digest)
    with pytest.raises(
        SearchError, match=r"started with different weights .*; restore the original ones, or remove this file to start"
    ):
        trials.record_dependency("weights", weights_digest(search_folder / "supernet"))


def test_a_search_ends_early_if_no_new_candidates_remain(search_folder, monkeypatch, capsys):
    profile = costs_of(search_folder).profiles["cpu"]
    least = profile.predict_ms(cheapest(SPACE, profile.predict_ms))
    only = Budget(name="tight", device="cpu", p50_ms=least * 1.021)
    monkeypatch.setattr("driver.BUDGETS", (only,))
    state = run(search_folder, 50, sampler="nsga2")
    assert 1 <= len(state.results) < 50
    assert all(profile.predict_ms(r.architecture) <= least * 1.001 for r in state.results)
    assert "ending early" in capsys.readouterr().err


def test_an_exhausted_sampler_is_asked_again_only_after_a_change(search_folder, monkeypatch):
    """Another driver is evaluating the last candidate."""
    other = trials_of(search_folder)
    proposal, asks, looks = other.ask(9), [], []
    trials = trials_of(search_folder)
    monkeypatch.setattr(trials, "ask", asks.append)

    def look(seconds):
        looks.append(len(asks))
        if len(looks) == 4:
            other.tell(proposal, CandidateResult(proposal.architecture, 0.7, 10, 0.1))

    monkeypatch.setattr(loop.time, "sleep", look)
    recipe = EvaluationRecipe(search_folder / "supernet", search_folder / "data", ClassMetric("accuracy"))
    with logged(search_folder / "log.jsonl"):
        search(trials, 9, lambda: executor_for(Search(), recipe))
    assert looks == [looks[0]] * 4 and len(asks) == 2 * looks[0]
    log = (search_folder / "log.jsonl").read_text()
    assert proposal.architecture.describe() in log, "results of other drivers are logged, too"


def test_a_stored_result_is_kept_if_its_driver_ends_before_finishing_the_trial(search_folder):
    trials = trials_of(search_folder)
    proposal = trials.ask(9)
    result = CandidateResult(proposal.architecture, 0.7, 10, 0.1)
    storage = trials._storage._storage
    storage.set_trial_user_attr(storage.get_all_trials(0)[proposal.number]._trial_id, "result", result.to_json())
    assert trials_of(search_folder).results() == [], "its driver is alive"
    trials._storage.leave()
    again = trials_of(search_folder)
    assert again.results() == [result] and again.outcomes()["lost"] == 0
    state = run(search_folder, 9)
    assert state.results[0] == result and len({r.architecture for r in state.results}) == 9


def test_a_limit_that_no_sub_network_can_meet_is_refused_and_the_best_value_is_named(search_folder):
    costs = costs_of(search_folder)
    costs.check_feasible(SPACE)
    for limit in ({"p50_ms": 0.09}, {"size_mb": 1e-5}, {"params": 10}, {"throughput_per_s": 1e6}):
        tight = Costs(costs.config, costs.profiles, (Budget(name="tight", device="cpu", **limit),))
        with pytest.raises(InfeasibleBudgetError, match="the best that a sub-network is predicted to reach"):
            tight.check_feasible(SPACE)


def test_the_worst_limit_of_a_budget_counts_and_the_nearest_of_several_budgets(search_folder):
    costs, largest = costs_of(search_folder), SPACE.largest()
    predicted = costs.profiles["cpu"].predict_ms(largest)
    half, fifth = BUDGETS
    assert costs.violation(largest, half) == pytest.approx(predicted / 1.6 - 1)
    assert costs.violation(largest, fifth) == pytest.approx(predicted / 0.64 - 1)
    assert costs.least_violation(largest) == pytest.approx(1.02 * predicted / 1.6 - 1), "the profile's error is 2 %"
    both = Budget(name="both", device="cpu", p50_ms="50%", params=100)
    assert costs.violation(largest, both) > 50


def test_most_initial_candidates_use_at_least_70_percent_of_a_budget(search_folder):
    costs = costs_of(search_folder)
    population = costs.initial_population(SPACE, 16, random.Random(0))
    assert len(set(population)) == 16 and population[0] == cheapest(SPACE, costs.least_violation)
    for budget in BUDGETS:
        near = [one for one in population if -0.3 <= costs.cautious_violation(one, budget) <= 0.0]
        assert len(near) >= 6


def _result(number, accuracy):
    return CandidateResult(SPACE.sample(random.Random(number)), accuracy, 10, 0.1)


def test_a_network_with_early_exits_must_beat_only_results_that_cost_no_more_than_its_first_layer(search_folder):
    """Before its evaluation it is not known how many texts exit early, so its cost may be that of the first layer."""
    values = SPACE.model_dump()
    space = SearchSpace.model_validate(values | {"dimensions": values["dimensions"] | {"exit_threshold": [0.9]}})
    costs = costs_of(search_folder)
    storage = Storage(search_folder / "exits.log", "tiny", "inputs", ["accuracy", "predicted p50_ms"])
    trials = Trials(storage, space, costs, Search(population=8), 0)
    for network, accuracy in ((space.largest(), 0.9), (space.smallest(), 0.6)):
        number = storage.add(create_trial(state=TrialState.RUNNING))
        trials.tell(Proposal(number, network), CandidateResult(network, accuracy, 120, 1.0))
    with_exits = replace(space.largest(), exit_threshold=0.9)
    assert trials.to_beat(space.largest()) == 0.9 and trials.to_beat(with_exits) == 0.6


def test_the_pareto_front_equals_the_one_found_by_brute_force():
    rng = random.Random(0)
    results = [_result(number, rng.randint(0, 20) / 20) for number in range(60)]
    cost = {result.architecture: (rng.randint(0, 30), rng.randint(0, 30)) for result in results}

    def beats(a, b):
        worse = any(x > y for x, y in zip(cost[a.architecture], cost[b.architecture], strict=True))
        return (
            a.accuracy >= b.accuracy
            and not worse
            and (a.accuracy, cost[a.architecture])
            != (
                b.accuracy,
                cost[b.architecture],
            )
        )

    expected = {r.architecture for r in results if not any(beats(other, r) for other in results)}
    front = pareto_front(results, lambda result: cost[result.architecture])
    points = {(r.accuracy, cost[r.architecture]) for r in front}
    assert points == {(r.accuracy, cost[r.architecture]) for r in results if r.architecture in expected}
    assert [r.accuracy for r in front] == sorted((r.accuracy for r in front), reverse=True)


def test_the_ranking_includes_candidates_whose_predicted_violation_is_within_the_tolerance(search_folder):
    costs = costs_of(search_folder)
    results = [_result(number, number / 50) for number in range(50)]
    exact = ranking(results, costs, BUDGETS[0], 0.0)
    generous = ranking(results, costs, BUDGETS[0], 0.5)
    assert {r.architecture for r in exact} < {r.architecture for r in generous}
    assert [r.accuracy for r in generous] == sorted((r.accuracy for r in generous), reverse=True)


def test_a_candidate_result_is_unchanged_by_json():
    result = _result(1, 0.75)
    assert CandidateResult.from_json(json.loads(json.dumps(result.to_json()))) == result
