"""Candidates a second: naive evaluation against what makes it cheap, each alone and all together, on one list.

Naive is: extract, all examples of the search set in full precision, one candidate after the other. The list comes from
a search without evaluations: random candidates within the study's budgets, and generations of their children. Needs a
run whose supernet is trained and whose devices are profiled.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import common
from rich.console import Console
from rich.table import Table

from nas.architecture import Architecture
from nas.data import TaskData
from nas.evaluate import CandidateResult
from nas.evaluate.accuracy import Evaluator
from nas.evaluate.shared import most_alike, prefix_keys
from nas.pipeline import Run
from nas.pipeline.searches import costs_of
from nas.pipeline.supernets import load_supernet
from nas.search.costs import Costs, no_dearer
from nas.search.executors import AHEAD
from nas.search.front import pareto_front
from nas.space import SearchSpace
from nas.supernet import BertSupernet


def measure(run: Run, count: int, seed: int) -> dict[str, Any]:
    """Measure and print; returns candidates a second of each way."""
    data, supernet = TaskData.load(run.data), load_supernet(run)
    costs = costs_of(run)
    candidates = proposals(run.study.space, costs, count, random.Random(seed))
    labels = data.search

    def evaluator(shared: bool = False, raced: bool = False, bf16: bool = False) -> Evaluator:
        return Evaluator(supernet, labels, run.study.task.metric, shared, raced, bf16)

    ways: dict[str, Callable[[], list[CandidateResult]]] = {
        "naive": lambda: [_naive(supernet, evaluator(), one) for one in candidates],
        "rounded once": lambda: _in_turn(evaluator(), candidates, costs, False),
        "shared layers": lambda: _in_turn(evaluator(shared=True), candidates, costs, False),
        "racing": lambda: _in_turn(evaluator(raced=True), candidates, costs, True),
        "bf16": lambda: _in_turn(evaluator(bf16=True), candidates, costs, False),
        "all": lambda: _in_turn(evaluator(True, True, True), candidates, costs, True),
    }
    rates, fronts, examples = dict[str, float](), dict[str, set[Architecture]](), dict[str, float]()
    for name, way in ways.items():
        started = time.monotonic()
        results = way()
        rates[name] = round(len(results) / (time.monotonic() - started), 3)
        whole = [result for result in results if result.complete]
        fronts[name] = {
            result.architecture for result in pareto_front(whole, lambda item: costs.limited(item.architecture))
        }
        examples[name] = sum(result.examples for result in results) / len(results) / len(labels)
    table = Table(title=f"{count} candidates, {len(labels):,} examples")
    for column in ("", "candidates/s", "times naive", "examples looked at", "same front"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rate in rates.items():
        same = "yes" if fronts[name] == fronts["naive"] else "no"
        table.add_row(name, f"{rate:.2f}", f"{rate / rates['naive']:.2f}", f"{examples[name]:.0%}", same)
    Console().print(table)
    return {
        "naive": rates["naive"],
        "all": rates["all"],
        "ratio": round(rates["all"] / rates["naive"], 3),
        "same_front": fronts["all"] == fronts["naive"],
        "rates": rates,
    }


def proposals(space: SearchSpace, costs: Costs, count: int, rng: random.Random) -> list[Architecture]:
    """As a search proposes them: a first population, then children of those with most layers and widths."""
    population = costs.initial_population(space, max(4, count // 4), rng)
    found = list(population)
    while len(found) < count:
        child = space.mutate(space.crossover(rng.choice(population), rng.choice(population), rng), rng)
        if child not in found and costs.violation(child) <= 0.0:
            found.append(child)
            population = [*population[1:], child] if rng.random() < 0.5 else population
    return found[:count]


def _naive(supernet: BertSupernet, evaluator: Evaluator, architecture: Architecture) -> CandidateResult:
    accuracy, exits = evaluator.measure(supernet.extract(architecture))
    return CandidateResult(architecture, accuracy, len(evaluator.labels), 0.0, exits)


def _in_turn(evaluator: Evaluator, candidates: list[Architecture], costs: Costs, raced: bool) -> list[CandidateResult]:
    """As the inline executor does it: a few wait, the one most like the last goes first."""
    waiting, results = list(candidates), list[CandidateResult]()
    last: list[Any] = []
    while waiting:
        architecture = waiting.pop(most_alike(waiting[:AHEAD], last))
        last, rival = prefix_keys(architecture), 0.0
        if raced:
            own = costs.limited(architecture)
            able = (r for r in results if r.complete and no_dearer(costs.limited(r.architecture), own))
            rival = max((result.accuracy for result in able), default=0.0)
        results.append(evaluator.evaluate(architecture, rival))
    return results


def _arguments() -> argparse.Namespace:
    made = common.parser(__doc__)
    made.add_argument("--candidates", type=int, default=60)
    made.add_argument("--seed", type=int, default=0)
    return made.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    common.main(arguments, lambda run: measure(run, arguments.candidates, arguments.seed))
