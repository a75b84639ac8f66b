"""Accuracy floors in a search: how the cheapest networks of certain accuracies are found, measured and compared."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from driver import costs_of
from test_guided import SPACE, _accuracy, _results, _search, every_in_int8

from nas.budget import Budget, Floor
from nas.evaluate import CandidateResult
from nas.latency.measure import Texts
from nas.search.costs import Costs
from nas.search.front import along_the_front, cheapest_reaching
from nas.search.knapsack import best_sums, single_changes
from nas.search.levels import CostStanding, Levels
from nas.search.selection import Measurement, compared_at, measure_budget
from nas.search.uniform import every_uniform
from nas.search.view import View

TEACHER = _accuracy(SPACE.largest())
FLOOR = Floor(minimum=0.9 * TEACHER, teacher=TEACHER, confident=0.92 * TEACHER, minimise="p50_ms", device="cpu")


@pytest.fixture
def costs(search_folder) -> Costs:
    budget = Budget(name="kept", device="cpu", accuracy=FLOOR.minimum)
    return replace(costs_of(search_folder), budgets=(budget,), floors={"kept": FLOOR})


def _cheapest(costs, accuracy):
    """Return the least latency of all architectures that reach an accuracy."""
    return min(costs.minimised(one, FLOOR) for one in every_in_int8() if _accuracy(one) >= accuracy)


def test_levels_are_below_the_teacher_by_one_two_and_four_times_the_allowed_loss():
    floor = Floor(0.88, 0.90, 0.894, "p50_ms", "cpu")
    assert floor.levels == pytest.approx((0.88, 0.86, 0.82))
    above = Floor(0.95, 0.90, 0.964, "p50_ms", "cpu")
    assert above.levels == pytest.approx((0.95, 0.94, 0.92)), "the loss counts as at least one point"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_guided_search_finds_nearly_the_cheapest_network_of_each_level(search_folder, costs, seed):
    best = np.array([_cheapest(costs, level) for level in FLOOR.levels])
    relative_latency = {}
    for sampler in ("guided", "random"):
        results = _results(_search(search_folder, costs, sampler, seed, 60))
        found = [cheapest_reaching(results, costs, FLOOR, level) for level in FLOOR.levels]
        relative_latency[sampler] = max([costs.minimised(one.architecture, FLOOR) for one in found] / best)
    assert relative_latency["guided"] < 1.15 < relative_latency["random"]


def test_expected_improvement_grows_with_the_saving_and_the_probability_of_reaching_the_level():
    levels = Levels(np.array([0.5]), np.array([1.0]))
    standing = CostStanding(np.array([[True]] * 4), np.array([[0.5], [1.0], [1.0], [-np.inf]]))
    gain = levels.expected_improvement(np.array([1.2, 1.2, 0.9, 2.0]), np.full(4, 0.1), standing)
    cost = gain[:, 1]
    assert cost[1] == pytest.approx(2 * cost[0]) and cost[2] < cost[0] and cost[3] == 0.0
    levels.update(np.array([1.1]), standing.at([0]))
    assert levels.best.tolist() == [1.1, 0.5]
    later = levels.expected_improvement(np.array([1.2, 1.2, 0.9, 2.0]), np.full(4, 0.1), standing)[:, 1]
    assert later[0] == 0.0 and later[1] == pytest.approx(cost[1] / 2)
    levels.update(np.array([0.9]), standing.at([1]))
    assert levels.best.tolist() == [1.1, 0.5], "it does not reach the level"


def test_measured_candidates_are_evenly_spaced_along_the_front(costs):
    rng = random.Random(0)
    ranked = sorted(_results({SPACE.sample(rng) for _ in range(300)}), key=lambda one: -one.accuracy)
    found = along_the_front(ranked, costs, FLOOR, 5)
    values = [one.accuracy for one in found]
    prices = [costs.minimised(one.architecture, FLOOR) for one in found]
    assert len(found) == 5 and values == sorted(values, reverse=True) and prices == sorted(prices, reverse=True)
    confident = cheapest_reaching(ranked, costs, FLOOR, FLOOR.confident)
    assert found[0].accuracy >= FLOOR.confident and prices[0] == costs.minimised(confident.architecture, FLOOR)
    lowest = cheapest_reaching(ranked, costs, FLOOR, FLOOR.levels[-1])
    assert prices[-1] == costs.minimised(lowest.architecture, FLOOR)
    steps = np.diff(np.log(prices))
    assert steps.min() > 3 * steps.max(), "evenly spaced by the logarithm, as far as the front has candidates"
    for one, price in zip(found, prices, strict=True):
        others = (two for two in ranked if costs.minimised(two.architecture, FLOOR) <= price)
        assert max(two.accuracy for two in others) == one.accuracy, "not on the front"


def test_the_most_accurate_candidate_is_measured_if_none_is_near_the_floor(costs):
    rng = random.Random(0)
    ranked = sorted(_results({SPACE.sample(rng) for _ in range(50)}), key=lambda one: -one.accuracy)
    high = replace(FLOOR, minimum=2.0, confident=2.1, teacher=1.9)
    assert along_the_front(ranked, costs, high, 5) == ranked[:1]
    assert along_the_front([], costs, high, 5) == []
    assert cheapest_reaching(ranked, costs, high, high.minimum) is None


def test_with_a_floor_twice_as_many_candidates_are_measured_until_one_meets_the_limits(costs, fake_measurement):
    """The limit is the teacher's 3.2 ms. The first group misses it by 10 %, and the second group meets it."""
    groups = fake_measurement(lambda one: 3.2 * (1.1 if len(groups) == 1 else 0.9))
    rng = random.Random(0)
    results = _results(sorted({SPACE.sample(rng) for _ in range(300)}, key=lambda one: one.digest))
    measurement = Measurement(lambda architecture: architecture, SPACE.largest(), costs, Texts())
    found, baselines = measure_budget(measurement, results, costs.budgets[0], 2)
    assert [len(group) for group in groups] == [4, 4] and not set(groups[0]) & set(groups[1])
    assert len(found) == 8 and baselines == []


def test_a_floor_has_knapsack_solutions_for_fractions_of_its_limit_and_no_uniform_networks(costs):
    changes = single_changes(SPACE)
    found = best_sums(SPACE, costs, {one: _accuracy(one) for one in changes})
    prices = [costs.minimised(one, FLOOR) / 3.2 for one in found]
    assert len(found) >= 3 and prices == sorted(prices, reverse=True) and prices[0] > 0.5 > 0.25 > prices[-1]
    assert every_uniform(SPACE, costs) == {}


def test_the_view_shows_the_cheapest_candidate_that_meets_the_floor(costs):
    trials = type("Trials", (), {"costs": costs, "outcomes": lambda self: {}})()
    able = [
        one for one in (SPACE.sample(random.Random(seed)) for seed in range(20)) if costs.least_violation(one) <= 0.0
    ]
    able.sort(key=lambda one: costs.minimised(one, FLOOR))
    accuracies = (FLOOR.minimum - 0.1, FLOOR.minimum + 0.01, FLOOR.minimum + 0.05)
    below, cheap, expensive = (
        CandidateResult(one, accuracy, 10, 0.1)
        for one, accuracy in zip((able[0], able[1], able[-1]), accuracies, strict=True)
    )
    view = View(trials, [below])
    view()
    assert view._best == {"kept": [below]}, "the most accurate candidate, as long as none meets the floor"
    for one in (expensive, cheap):
        view.add(one)
    view()
    assert view._best == {"kept": [cheap]}


def test_uniform_networks_for_a_floor_cost_no_more_than_the_cheapest_measured_candidate_near_it(costs):
    rng = random.Random(0)
    results = _results({SPACE.sample(rng) for _ in range(300)})
    limited = compared_at(costs, results, 4)
    (budget,) = limited.budgets
    assert not budget.has_floor and every_uniform(SPACE, limited)
    ranked = sorted(results, key=lambda one: -one.accuracy)

    def least_price(candidates):
        """Return the least latency of the candidates at most two allowed losses below the teacher."""
        lowest = TEACHER - 2 * (TEACHER - FLOOR.minimum)
        return min(costs.minimised(one.architecture, FLOOR) for one in candidates if one.accuracy >= lowest)

    price = least_price(along_the_front(ranked, costs, FLOOR, 8))
    assert budget.limits[0].p50_ms == pytest.approx(1.02 * price), "the limit includes the profile's error of 2 %"
    assert max(costs.minimised(one, FLOOR) for one in every_uniform(SPACE, limited)) <= price * 1.0001
    (budget,) = compared_at(costs, results, len(results)).budgets
    assert budget.limits[0].p50_ms == pytest.approx(1.02 * least_price(results)), "the whole front is measured"
    assert compared_at(costs, [], 4).budgets == costs.budgets, "there is no candidate to compare with"


def test_uniform_networks_are_not_larger_than_the_candidate_that_they_are_compared_with(costs):
    """Sizes are exact, so the limit does not include the error of the latency profile."""
    floor, rng = replace(FLOOR, minimise="size_mb"), random.Random(0)
    smallest = Budget(name="kept", device="cpu", accuracy=FLOOR.minimum, minimise="size_mb")
    costs = replace(costs, budgets=(smallest,), floors={"kept": floor})
    results = _results({SPACE.sample(rng) for _ in range(300)})
    (budget,) = compared_at(costs, results, len(results)).budgets
    lowest = TEACHER - 2 * (TEACHER - FLOOR.minimum)
    sizes = [costs.stored(one.architecture)["size_mb"] for one in results if one.accuracy >= lowest]
    assert budget.limits[0].size_mb == min(sizes)
