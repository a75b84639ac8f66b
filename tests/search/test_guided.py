"""The guided sampler, compared with a known optimum, and the designs from which a search starts."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import chain, product

import numpy as np
import pytest
from driver import BUDGETS, costs_of, run
from tiny import mixed_space

from nas.architecture import Architecture, Layer
from nas.budget import Budget
from nas.evaluate import CandidateResult
from nas.model.sizes import stored_mb
from nas.search.costs import Costs, cheapest
from nas.search.guided import BATCH, Guide, features
from nas.search.sampler import Trials
from nas.search.starts import _uniform_candidates, designs, uniform
from nas.search.storage import Storage
from nas.search.surrogate import Surrogate
from nas.space import SearchSpace
from nas.study import Search

SPACE = SearchSpace.load("tiny")


def _accuracy(architecture):
    """An artificial accuracy: each block adds a part, larger in the first layers. Int8 loses nothing."""
    parts = (
        (3 - layer.source) * (math.sqrt(layer.num_attention_heads / 4) + math.sqrt(layer.intermediate_size / 64))
        for layer in architecture.layers
    )
    return 0.5 + architecture.hidden_size / 320 + sum(parts) / 40


def _best_within(architectures, costs):
    """Return the best accuracy of the architectures within each budget."""
    met = [(_accuracy(one), costs.cautious_violations(one)) for one in architectures]
    return [max(found for found, excess in met if excess[place] <= 0.0) for place in range(len(costs.budgets))]


def every_in_int8():
    """Return all architectures with int8 blocks. With other blocks, they would cost more."""
    options = list(product((1, 2, 4), (8, 24, 64)))
    return [
        Architecture(hidden, tuple(Layer(at, *sizes, "int8", "int8") for at, sizes in zip(kept, chosen, strict=True)))
        for hidden in SPACE.dimensions.hidden_size
        for kept in SPACE.layer_sets
        for chosen in product(options, repeat=len(kept))
    ]


def _known_optimum(costs):
    """Return the best accuracy of any architecture within each budget."""
    return _best_within(every_in_int8(), costs)


def _results(architectures):
    return [CandidateResult(one, _accuracy(one), 10, 0.1) for one in architectures]


def _search(folder, costs, sampler, seed, evaluations):
    settings = Search(sampler=sampler, evaluations=evaluations, population=8)
    storage = Storage(folder / f"{sampler}-{seed}.log", "tiny", "inputs", ["accuracy", "predicted p50_ms"])
    trials = Trials(storage, SPACE, costs, settings, seed)
    while len(trials.results()) < evaluations:
        if proposal := trials.ask(evaluations):
            trials.tell(proposal, *_results([proposal.architecture]))
    return [result.architecture for result in trials.results()]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_guided_search_comes_near_the_known_optimum_and_a_random_search_does_not(search_folder, seed):
    costs = costs_of(search_folder)
    best = np.array(_known_optimum(costs))
    guided = _best_within(_search(search_folder, costs, "guided", seed, 48), costs)
    chance = _best_within(_search(search_folder, costs, "random", seed, 48), costs)
    assert (best - guided).max() < 0.03 < (best - chance).min()


def test_a_guided_search_is_reproducible_and_can_be_resumed(search_folder):
    straight, again = (run(search_folder, 14, sampler="guided", where=name) for name in ("a.log", "b.log"))
    assert [one.architecture for one in again.results] == [one.architecture for one in straight.results]
    longer = run(search_folder, 20, sampler="guided", where="a.log").results
    costs = costs_of(search_folder)
    assert longer[:14] == straight.results and len({one.architecture for one in longer}) == 20
    assert all(costs.least_violation(one.architecture) <= 0.0 for one in longer)


def test_chosen_candidates_are_new_and_meet_a_budget(search_folder):
    costs = costs_of(search_folder)
    rng = random.Random(0)
    known = costs.initial_population(SPACE, 12, rng)
    running = list[Architecture]()
    for _ in range(3):
        chosen = Guide(SPACE, costs).choose(_results(known), running, rng)
        assert len(set(chosen)) == len(chosen) == BATCH and not {*known, *running} & set(chosen)
        assert all(costs.least_violation(one) <= 0.0 for one in chosen)
        running += chosen


def test_pending_candidates_are_assumed_to_reach_their_posterior_means(search_folder, monkeypatch):
    costs, rng = costs_of(search_folder), random.Random(0)
    known = costs.initial_population(SPACE, 12, rng)
    running = Guide(SPACE, costs).choose(_results(known), [], rng)
    fantasies = []
    monkeypatch.setattr(
        Surrogate, "fantasise", lambda surrogate, x, y: fantasies.append((x, y, surrogate.posterior(x).mean))
    )
    Guide(SPACE, costs).choose(_results(known), running, rng)
    x, y, expected = fantasies[0]
    assert np.array_equal(x, [features(SPACE, one) for one in running]) and np.allclose(y, expected)


def test_the_same_results_and_seed_give_the_same_choice(search_folder):
    costs = costs_of(search_folder)
    results = _results(costs.initial_population(SPACE, 12, random.Random(0)))
    first, second = (Guide(SPACE, costs).choose(results, (), random.Random(1)) for _ in range(2))
    assert first == second


def test_a_new_guide_chooses_like_one_that_has_chosen_before(search_folder):
    costs = costs_of(search_folder)
    results = _results(costs.initial_population(SPACE, 40, random.Random(0)))
    guide = Guide(SPACE, costs)
    for known in (8, 9, 10, 24, 40):
        chosen = guide.choose(results[:known], (), random.Random(1))
        assert chosen == Guide(SPACE, costs).choose(results[:known], (), random.Random(1))


def test_nothing_is_chosen_if_all_architectures_are_pending(search_folder):
    costs = costs_of(search_folder)
    results = _results(costs.initial_population(SPACE, 12, random.Random(0)))
    everything = type("Everything", (set,), {"__contains__": lambda self, _: True})()
    assert Guide(SPACE, costs).choose(results, everything, random.Random(0)) == []


@pytest.mark.parametrize("space", [SPACE, mixed_space()], ids=["tiny", "mixed"])
def test_different_architectures_have_different_features(space):
    rng = random.Random(0)
    architectures = {space.sample(rng) for _ in range(300)}
    assert len({features(space, one).tobytes() for one in architectures}) == len(architectures)


def test_uniform_designs_have_equal_layers_as_wide_as_their_budget_allows(search_folder):
    costs = costs_of(search_folder)
    half, halved, _, fifth, *_ = found = uniform(SPACE, costs)
    for share, widest in ((1.0, half), (0.5, halved)):
        for one in widest:
            assert SPACE.contains(one) and 1.0 + costs.cautious_violation(one, BUDGETS[0]) <= share
            assert len({replace(layer, source=0) for layer in one.layers}) == 1
            wider = [replace(layer, num_attention_heads=4, intermediate_size=64) for layer in one.layers]
            assert (
                list(one.layers) == wider
                or 1.0 + costs.cautious_violation(replace(one, layers=tuple(wider)), BUDGETS[0]) > share
            )
    assert {len(one.layers) for one in half} == {1, 2, 3} and len(found) == 6 and fifth


def test_designs_are_the_cheapest_architecture_and_uniform_networks(search_folder):
    costs = costs_of(search_folder)
    first = designs(SPACE, costs, 6, random.Random(0))
    assert first[0] == cheapest(SPACE, costs.least_violation) and len(set(first)) == 6
    assert set(first[1:]) <= {one for found in uniform(SPACE, costs) for one in found}


def test_a_size_limit_that_needs_compressed_embeddings_has_designs(search_folder):
    costs = costs_of(search_folder)
    whole = [one for one in _uniform_candidates(SPACE) if one.embedding == "none"]
    limit = 0.999 * min(stored_mb(costs.config.with_architecture(one)) for one in whole)
    small = Costs(costs.config, costs.profiles, (Budget(name="small", device="cpu", size_mb=limit),))
    assert {one.embedding for one in uniform(SPACE, small)[0]} == {"int8"}


def test_further_designs_are_random_architectures_that_meet_a_budget(search_folder):
    costs = costs_of(search_folder)
    count = len(set(chain(*uniform(SPACE, costs)))) + 4
    first = designs(SPACE, costs, count, random.Random(0))
    assert len(set(first)) == len(first) == count
    assert all(costs.least_violation(one) <= 0.0 for one in first)


def test_violations_are_relative_to_each_budget_and_the_least_is_that_of_the_nearest(search_folder):
    """The budgets are 50 and 20 % of the teacher's 3.2 ms, and the profile's mean error is 2 %."""
    costs = costs_of(search_folder)
    for number in range(20):
        one = SPACE.sample(random.Random(number))
        predicted = costs.predict_ms(one)["cpu"]
        half, fifth = costs.cautious_violations(one)
        assert (half, fifth) == pytest.approx((1.02 * predicted / 1.6 - 1, 1.02 * predicted / 0.64 - 1))
        assert [costs.cautious_violation(one, budget) for budget in BUDGETS] == [half, fifth]
        assert costs.least_violation(one) == half < fifth
