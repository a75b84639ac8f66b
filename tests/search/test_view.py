"""The live view of a search, which is updated result by result, and the log of a search."""

from __future__ import annotations

import json
import random

from driver import BUDGETS, costs_of, run, trials_of
from rich.console import Console

from nas.evaluate import CandidateResult
from nas.progress import logged
from nas.search.front import pareto_front, ranking
from nas.search.view import View
from nas.space import SearchSpace

SPACE = SearchSpace.load("tiny")


def _drawn(view):
    console = Console(width=200, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(view())
    return capture.get()


def test_the_view_shows_the_front_and_the_best_candidates_of_all_results(search_folder):
    costs, rng = costs_of(search_folder), random.Random(0)
    found = [
        CandidateResult(SPACE.sample(rng), rng.randint(10, 20) / 20, 10, 0.1, complete=rng.random() < 0.7)
        for _ in range(60)
    ]
    trials = trials_of(search_folder)
    view = View(trials, found[:20])
    view()
    for number, result in enumerate(found[20:]):
        view.add(result)
        if number % 7 == 0:
            view()
    shown = _drawn(view)
    whole = [result for result in found if result.complete]
    front = pareto_front(whole, lambda result: tuple(costs.predict_ms(result.architecture).values()))
    assert f"front, {len(front)} candidates" in shown
    for result in (front[0], front[-1], *(ranking(whole, costs, budget, 0.0)[0] for budget in BUDGETS)):
        assert result.architecture.describe() in shown and f"{result.accuracy:.4f}" in shown
    assert f"{(60 - len(whole)) / 60:.0%} of the evaluated candidates were stopped early" in shown


def test_the_view_of_a_search_without_results_can_be_drawn(search_folder):
    assert "none yet" in _drawn(View(trials_of(search_folder), []))


def test_every_evaluation_is_in_the_log(search_folder):
    with logged(search_folder / "log.jsonl"):
        state = run(search_folder, 10)
    events = [json.loads(line) for line in (search_folder / "log.jsonl").read_text().splitlines()]
    evaluated = [event for event in events if event["event"] == "evaluated"]
    assert [event["done"] for event in evaluated] == list(range(1, 11))
    assert {event["architecture"] for event in evaluated} == {r.architecture.describe() for r in state.results}
    assert events[-1]["event"] == "searched" and events[-1]["outcomes"] == state.outcomes
