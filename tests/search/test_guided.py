"""The guided sampler against a best that is known, and the designs that a search starts from."""

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
from nas.search.starts import _alike, designs, uniform
from nas.search.storage import Storage
from nas.search.surrogate import Surrogate
from nas.space import SearchSpace
from nas.study import Search

SPACE = SearchSpace.load("tiny")


def _accuracy(architecture):
    """Every block adds its part, those of the first layers more; integers cost nothing."""
    parts = (
        (3 - layer.source) * (math.sqrt(layer.num_attention_heads / 4) + math.sqrt(layer.intermediate_size / 64))
        for layer in architecture.layers
    )
    return 0.5 + architecture.hidden_size / 320 + sum(parts) / 40


def _within(architectures, costs):
    """The best accuracy within each budget."""
    met = [(_accuracy(one), costs.cautious_violations(one)) for one in architectures]
    return [max(found for found, excess in met if excess[place] <= 0.0) for place in range(len(costs.budgets))]


def every_in_int8():
    """All architectures whose blocks are in integers: of those that are alike otherwise none is cheaper."""
    options = list(product((1, 2, 4), (8, 24, 64)))
    return [
        Architecture(hidden, tuple(Layer(at, *sizes, "int8", "int8") for at, sizes in zip(kept, chosen, strict=True)))
        for hidden in SPACE.dimensions.hidden_size
        for kept in SPACE.layer_sets
        for chosen in product(options, repeat=len(kept))
    ]


def _best(costs):
    """The same of all architectures."""
    return _within(every_in_int8(), costs)


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
def test_guided_comes_near_the_known_best_where_random_does_not(search_folder, seed):
    costs = costs_of(search_folder)
    best = np.array(_best(costs))
    guided = _within(_search(search_folder, costs, "guided", seed, 48), costs)
    chance = _within(_search(search_folder, costs, "random", seed, 48), costs)
    assert (best - guided).max() < 0.03 < (best - chance).min()


def test_a_guided_search_repeats_itself_and_goes_on(search_folder):
    straight, again = (run(search_folder, 14, sampler="guided", where=name) for name in ("a.log", "b.log"))
    assert [one.architecture for one in again.results] == [one.architecture for one in straight.results]
    longer = run(search_folder, 20, sampler="guided", where="a.log").results
    costs = costs_of(search_folder)
    assert longer[:14] == straight.results and len({one.architecture for one in longer}) == 20
    assert all(costs.least_violation(one.architecture) <= 0.0 for one in longer)


def test_no_choice_is_repeated_or_over_budget(search_folder):
    costs = costs_of(search_folder)
    rng = random.Random(0)
    known = costs.initial_population(SPACE, 12, rng)
    running = list[Architecture]()
    for _ in range(3):
        chosen = Guide(SPACE, costs).choose(_results(known), running, rng)
        assert len(set(chosen)) == len(chosen) == BATCH and not {*known, *running} & set(chosen)
        assert all(costs.least_violation(one) <= 0.0 for one in chosen)
        running += chosen


def test_what_is_running_is_taken_to_come_out_as_expected(search_folder, monkeypatch):
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


def test_a_guide_that_begins_anew_chooses_like_one_that_went_on(search_folder):
    costs = costs_of(search_folder)
    results = _results(costs.initial_population(SPACE, 40, random.Random(0)))
    straight = Guide(SPACE, costs)
    for known in (8, 9, 10, 24, 40):
        on = straight.choose(results[:known], (), random.Random(1))
        assert on == Guide(SPACE, costs).choose(results[:known], (), random.Random(1))


def test_where_nothing_fits_nothing_is_chosen(search_folder):
    costs = costs_of(search_folder)
    results = _results(costs.initial_population(SPACE, 12, random.Random(0)))
    everything = type("Everything", (set,), {"__contains__": lambda self, _: True})()
    assert Guide(SPACE, costs).choose(results, everything, random.Random(0)) == []


@pytest.mark.parametrize("space", [SPACE, mixed_space()], ids=["tiny", "mixed"])
def test_features_tell_architectures_apart(space):
    rng = random.Random(0)
    architectures = {space.sample(rng) for _ in range(300)}
    assert len({features(space, one).tobytes() for one in architectures}) == len(architectures)


def test_uniform_designs_are_alike_and_as_wide_as_budgets_allow(search_folder):
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


def test_a_guided_search_starts_from_the_smallest_and_uniform_designs(search_folder):
    costs = costs_of(search_folder)
    first = designs(SPACE, costs, 6, random.Random(0))
    assert first[0] == cheapest(SPACE, costs.least_violation) and len(set(first)) == 6
    assert set(first[1:]) <= {one for found in uniform(SPACE, costs) for one in found}


def test_a_size_that_only_compressed_embeddings_keep_has_designs(search_folder):
    costs = costs_of(search_folder)
    whole = [one for one in _alike(SPACE) if one.embedding == "none"]
    limit = 0.999 * min(stored_mb(costs.config.with_architecture(one)) for one in whole)
    small = Costs(costs.config, costs.profiles, (Budget(name="small", device="cpu", size_mb=limit),))
    assert {one.embedding for one in uniform(SPACE, small)[0]} == {"int8"}


def test_a_few_designs_are_followed_by_others_within_a_budget(search_folder):
    costs = costs_of(search_folder)
    count = len(set(chain(*uniform(SPACE, costs)))) + 4
    first = designs(SPACE, costs, count, random.Random(0))
    assert len(set(first)) == len(first) == count
    assert all(costs.least_violation(one) <= 0.0 for one in first)


def test_excesses_are_those_of_each_budget(search_folder):
    costs = costs_of(search_folder)
    for number in range(20):
        one = SPACE.sample(random.Random(number))
        assert costs.cautious_violations(one) == pytest.approx(
            [costs.cautious_violation(one, item) for item in BUDGETS]
        )
        assert costs.least_violation(one) == min(costs.cautious_violations(one))
