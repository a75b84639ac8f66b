"""Candidates a second: naive evaluation against what makes it cheap, each alone and all together, on one list.

Naive is: extract, all texts that the study's search judges by, in the data set's order, in batches padded to their
longest, in full precision, one candidate after the other. The list comes from a search without evaluations: random
candidates within the study's budgets, and generations of their children. All ways take a candidate in turns, so that
other work on the machine slows all of them alike. Sharing layers, racing and bf16 rest on batches by length.

A way's front is as good as the naive one if, for each network there, it has one that costs no more and is worse by no
more than the standard error of one accuracy, both as the naive way sees them. Needs a run whose supernet is trained and
whose devices are profiled.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import common
import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from torch.nn.utils.rnn import pad_sequence

from nas.architecture import Architecture
from nas.data import Batch, batches_by_length
from nas.evaluate import CandidateResult
from nas.evaluate.accuracy import Evaluator, exit_shares, forward_of, predict
from nas.evaluate.shared import prefix_keys
from nas.pipeline import Run
from nas.pipeline.prepare import metric_of
from nas.pipeline.profiles import costs_of
from nas.pipeline.searches import evaluation
from nas.search.costs import Costs, no_dearer
from nas.search.executors import Waiting, take_most_alike
from nas.search.front import pareto_front
from nas.space import SearchSpace
from nas.supernet import BertSupernet
from nas.tasks import Metric

_TEXTS = 32
"""In a naive batch."""
NAIVE, ALL = "naive", "all"
WAYS = {
    "and weights rounded once": (False, False, False),
    "and shared layers": (True, False, False),
    "and racing": (False, True, False),
    "and bf16": (False, False, True),
    ALL: (True, True, True),
}
"""Whether an evaluator shares layers, races and computes in bf16."""


class Naive:
    """Evaluates a network of its own for each candidate, always all texts."""

    def __init__(self, supernet: BertSupernet, texts: Dataset, metric: Metric, by_length: bool = False) -> None:
        self.supernet, self.metric, self.labels = supernet, metric, np.asarray(texts["labels"])
        self._batches = list(batches_by_length(texts) if by_length else _padded(texts))

    def evaluate(self, architecture: Architecture, _: float = 0.0) -> CandidateResult:
        """The metric with inherited weights."""
        started, left = time.monotonic(), list[int]()
        model = self.supernet.extract(architecture)
        accuracy = self.metric.score(predict(forward_of(model, left), self._batches), self.labels)
        exits = exit_shares(left, len(model.layers)) if left else ()
        return CandidateResult(architecture, accuracy, len(self.labels), time.monotonic() - started, exits)


def _padded(texts: Dataset) -> Iterator[Batch]:
    for start in range(0, len(texts), _TEXTS):
        rows = texts[start : start + _TEXTS]
        names = [name for name in ("input_ids", "token_type_ids") if name in rows]
        columns = {name: [torch.tensor(row) for row in rows[name]] for name in names}
        columns["attention_mask"] = [torch.ones_like(row) for row in columns["input_ids"]]
        inputs = {name: pad_sequence(values, batch_first=True) for name, values in columns.items()}
        yield Batch(np.arange(start, start + len(rows["input_ids"])), inputs)


class Way:
    """One way to evaluate the list: as the inline executor does it, of a few that wait the one most like the last."""

    def __init__(self, name: str, evaluator: Naive | Evaluator, candidates: list[Architecture], costs: Costs) -> None:
        self.name = name
        self.results: list[CandidateResult] = []
        self.seconds = 0.0
        self._evaluator, self._costs = evaluator, costs
        self._waiting: list[Waiting] = [(number, one, 0.0) for number, one in enumerate(candidates)]

    def step(self) -> None:
        """Evaluate one candidate more."""
        started = time.monotonic()
        last = prefix_keys(self.results[-1].architecture) if self.results else []
        _, architecture, _ = take_most_alike(self._waiting, last)
        self.results.append(self._evaluator.evaluate(architecture, self._rival(architecture)))
        self.seconds += time.monotonic() - started

    def _rival(self, architecture: Architecture) -> float:
        own = self._costs.limited(architecture)
        whole = (result for result in self.results if result.complete)
        able = (one.accuracy for one in whole if no_dearer(self._costs.limited(one.architecture), own))
        return max(able, default=0.0)

    @property
    def rate(self) -> float:
        """Candidates a second."""
        return len(self.results) / self.seconds

    @property
    def looked_at(self) -> float:
        """The share of the texts that a candidate was judged by, on average."""
        return sum(result.examples for result in self.results) / len(self.results) / len(self._evaluator.labels)

    def front(self) -> list[Architecture]:
        """Of what was evaluated wholly."""
        whole = [result for result in self.results if result.complete]
        found = pareto_front(whole, lambda result: self._costs.limited(result.architecture, result.exits))
        return [result.architecture for result in found]


def measure(run: Run, count: int, seed: int, fast: bool) -> dict[str, Any]:
    """Measure and print; returns candidates a second of each way, or if `fast` of the naive one and all together."""
    costs, metric, parts = costs_of(run), metric_of(run), evaluation(run).read()
    supernet, texts = parts.evaluator().supernet, Dataset(parts.texts)
    candidates = proposals(run.study.space, costs, count, random.Random(seed))

    evaluators: dict[str, Naive | Evaluator] = {NAIVE: Naive(supernet, texts, metric)}
    if not fast:
        evaluators["batches by length"] = Naive(supernet, texts, metric, by_length=True)
    for name, measures in WAYS.items():
        if name == ALL or not fast:
            evaluators[name] = Evaluator(supernet, texts, metric, *measures)
    ways = [Way(name, one, candidates, costs) for name, one in evaluators.items()]
    for _ in candidates:
        for way in ways:
            way.step()
    naive, together = ways[0], ways[-1]
    known = {result.architecture: result for result in naive.results}
    error = _standard_error(naive.results, len(texts))
    lost = {way.name: _lost(naive.front(), way.front(), known, costs) for way in ways}
    table = Table(title=f"{count} candidates, {len(texts):,} texts, standard error {100 * error:.2f} points")
    for column in ("", "candidates/s", "times naive", "texts looked at", "front loses at most, points"):
        table.add_column(column, justify="right" if column else "left")
    for way in ways:
        figures = (
            f"{way.rate:.2f}",
            f"{way.rate / naive.rate:.2f}",
            f"{way.looked_at:.0%}",
            f"{100 * lost[way.name]:.2f}",
        )
        table.add_row(way.name, *figures)
    Console().print(table)
    return {
        "naive": round(naive.rate, 3),
        "all": round(together.rate, 3),
        "ratio": round(together.rate / naive.rate, 3),
        "same_front": lost[ALL] <= error,
        "front_loses": round(lost[ALL], 5),
        "standard_error": round(error, 5),
        "rates": {way.name: round(way.rate, 3) for way in ways},
    }


def _standard_error(results: Sequence[CandidateResult], examples: int) -> float:
    best = max(result.accuracy for result in results)
    return math.sqrt(best * (1.0 - best) / examples)


def _lost(
    naive: list[Architecture], other: list[Architecture], known: dict[Architecture, CandidateResult], costs: Costs
) -> float:
    """By how much the best network of another front that costs no more falls short of one on the naive front."""

    def cost(architecture: Architecture) -> tuple[float, ...]:
        return costs.limited(architecture, known[architecture].exits)

    return max(
        known[one].accuracy
        - max((known[able].accuracy for able in other if no_dearer(cost(able), cost(one))), default=0.0)
        for one in naive
    )


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


def _arguments() -> argparse.Namespace:
    made = common.parser(__doc__)
    made.add_argument("--candidates", type=int, default=60)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--fast", action="store_true", help="the naive way and all together alone")
    return made.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    common.main(arguments, lambda run: measure(run, arguments.candidates, arguments.seed, arguments.fast))
