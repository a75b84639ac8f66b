"""Measure how many candidates per second are evaluated naively, with single optimisations and with all of them.

Naive evaluation extracts each candidate and runs it in full precision on all texts of the search set. The texts are in
the order of the data set, in batches padded to their longest text. All variants evaluate the same list of candidates:
random ones that meet the study's budgets, and several generations of their children. The variants take turns after each
candidate, so that other work on the machine slows all of them equally. Racing stops the evaluation of a candidate that
cannot win. The variants with shared layers, racing or bf16 also batch texts of similar length.

The benchmark also compares the Pareto front of each variant with the front of the naive evaluation. A front is treated
as equally good if it contains, for each network on the naive front, a network that costs no more and whose accuracy is
at most one standard error lower. For this comparison, both accuracies are those of the naive evaluation. The benchmark
needs a run whose supernet is trained and whose devices are profiled.
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
from torch.nn.utils.rnn import pad_sequence

from nas.architecture import Architecture
from nas.data import Batch, batches_by_length
from nas.evaluate import CandidateResult
from nas.evaluate.accuracy import Evaluator, exit_shares, forward_of, predict
from nas.evaluate.shared import prefix_keys
from nas.pipeline import Run
from nas.pipeline.data import metric_of
from nas.pipeline.profiles import costs_of
from nas.pipeline.searches import evaluation
from nas.search.costs import Costs, weakly_dominates
from nas.search.executors import Waiting, pop_longest_prefix
from nas.search.front import pareto_front
from nas.space import SearchSpace
from nas.supernet import BertSupernet
from nas.tasks import Metric

_BATCH_TEXTS = 32
"""The number of texts per batch in the naive evaluation."""
NAIVE, ALL = "naive", "all"
VARIANTS = {
    "and weights rounded once": (False, False, False),
    "and shared layers": (True, False, False),
    "and racing": (False, True, False),
    "and bf16": (False, False, True),
    ALL: (True, True, True),
}
"""For each variant, three flags: whether the evaluator reuses shared layers, races, and computes in bf16."""


class Naive:
    """The naive evaluator, which extracts each candidate as a separate network and runs it on all texts."""

    def __init__(self, supernet: BertSupernet, texts: Dataset, metric: Metric, by_length: bool = False) -> None:
        self.supernet, self.metric, self.labels = supernet, metric, np.asarray(texts["labels"])
        self._batches = list(batches_by_length(texts) if by_length else _padded(texts))

    def evaluate(self, architecture: Architecture, _: float = 0.0) -> CandidateResult:
        """Evaluate a candidate with weights inherited from the supernet, and return the result."""
        started, left_after = time.monotonic(), list[int]()
        model = self.supernet.extract(architecture)
        accuracy = self.metric.score(predict(forward_of(model, left_after), self._batches), self.labels)
        exits = exit_shares(left_after, len(model.layers)) if left_after else ()
        return CandidateResult(architecture, accuracy, len(self.labels), time.monotonic() - started, exits)


def _padded(texts: Dataset) -> Iterator[Batch]:
    for start in range(0, len(texts), _BATCH_TEXTS):
        rows = texts[start : start + _BATCH_TEXTS]
        names = [name for name in ("input_ids", "token_type_ids") if name in rows]
        columns = {name: [torch.tensor(row) for row in rows[name]] for name in names}
        columns["attention_mask"] = [torch.ones_like(row) for row in columns["input_ids"]]
        inputs = {name: pad_sequence(values, batch_first=True) for name, values in columns.items()}
        yield Batch(np.arange(start, start + len(rows["input_ids"])), inputs)


class Variant:
    """One variant of the evaluation. It evaluates candidates in the same order as the inline executor.

    From the first few waiting candidates, it takes the one that shares the longest layer prefix with the previous one.
    """

    def __init__(self, name: str, evaluator: Naive | Evaluator, candidates: list[Architecture], costs: Costs) -> None:
        self.name = name
        self.results: list[CandidateResult] = []
        self.seconds = 0.0
        self._evaluator, self._costs = evaluator, costs
        self._waiting: list[Waiting] = [(number, one, 0.0) for number, one in enumerate(candidates)]

    def step(self) -> None:
        """Evaluate the next candidate."""
        started = time.monotonic()
        last = prefix_keys(self.results[-1].architecture) if self.results else []
        _, architecture, _ = pop_longest_prefix(self._waiting, last)
        self.results.append(self._evaluator.evaluate(architecture, self._to_beat(architecture)))
        self.seconds += time.monotonic() - started

    def _to_beat(self, architecture: Architecture) -> float:
        own_costs = self._costs.cost_vector(architecture)
        complete = (result for result in self.results if result.complete)
        accuracies = (
            one.accuracy for one in complete if weakly_dominates(self._costs.cost_vector(one.architecture), own_costs)
        )
        return max(accuracies, default=0.0)

    @property
    def rate(self) -> float:
        """The number of candidates evaluated per second."""
        return len(self.results) / self.seconds

    @property
    def share_of_texts(self) -> float:
        """The share of texts on which a candidate was evaluated, averaged over all candidates."""
        return sum(result.examples for result in self.results) / len(self.results) / len(self._evaluator.labels)

    def front(self) -> list[Architecture]:
        """Return the Pareto front of the candidates that were evaluated on all texts."""
        complete = [result for result in self.results if result.complete]
        front = pareto_front(complete, lambda result: self._costs.cost_vector(result.architecture, result.exits))
        return [result.architecture for result in front]


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the variants, print a table, and return the candidates per second of each variant."""
    count = arguments.candidates
    costs, metric, parts = costs_of(run), metric_of(run), evaluation(run).read()
    supernet, texts = parts.evaluator().supernet, Dataset(parts.texts)
    candidates = proposals(run.study.space, costs, count, random.Random(arguments.seed))

    evaluators: dict[str, Naive | Evaluator] = {NAIVE: Naive(supernet, texts, metric)}
    if not arguments.fast:
        evaluators["batches by length"] = Naive(supernet, texts, metric, by_length=True)
    for name, optimisations in VARIANTS.items():
        if name == ALL or not arguments.fast:
            evaluators[name] = Evaluator(supernet, texts, metric, *optimisations)
    variants = [Variant(name, evaluator, candidates, costs) for name, evaluator in evaluators.items()]
    for _ in candidates:
        for variant in variants:
            variant.step()
    naive, optimised = variants[0], variants[-1]
    naive_results = {result.architecture: result for result in naive.results}
    error = _standard_error(naive.results, len(texts))
    losses = {variant.name: _largest_loss(naive.front(), variant.front(), naive_results, costs) for variant in variants}
    title = f"{count} candidates, {len(texts):,} texts, standard error {100 * error:.2f} points"
    columns = ("", "candidates/s", "speed-up over naive", "texts used", "largest loss on the front, points")
    table = common.table(title, *columns)
    for variant in variants:
        figures = (
            f"{variant.rate:.2f}",
            f"{variant.rate / naive.rate:.2f}",
            f"{variant.share_of_texts:.0%}",
            f"{100 * losses[variant.name]:.2f}",
        )
        table.add_row(variant.name, *figures)
    Console().print(table)
    return {
        "naive": round(naive.rate, 3),
        "all": round(optimised.rate, 3),
        "ratio": round(optimised.rate / naive.rate, 3),
        "same_front": losses[ALL] <= error,
        "front_loses": round(losses[ALL], 5),
        "standard_error": round(error, 5),
        "rates": {variant.name: round(variant.rate, 3) for variant in variants},
    }


def _standard_error(results: Sequence[CandidateResult], examples: int) -> float:
    best = max(result.accuracy for result in results)
    return math.sqrt(best * (1.0 - best) / examples)


def _largest_loss(
    naive: list[Architecture],
    other: list[Architecture],
    naive_results: dict[Architecture, CandidateResult],
    costs: Costs,
) -> float:
    """Return the largest loss of accuracy of the Pareto front `other` compared with the front `naive`.

    Each network on the front `naive` is compared with the best network on the front `other` that costs no more.
    """

    def cost(architecture: Architecture) -> tuple[float, ...]:
        return costs.cost_vector(architecture, naive_results[architecture].exits)

    return max(
        naive_results[one].accuracy
        - max(
            (naive_results[rival].accuracy for rival in other if weakly_dominates(cost(rival), cost(one))), default=0.0
        )
        for one in naive
    )


def proposals(space: SearchSpace, costs: Costs, count: int, rng: random.Random) -> list[Architecture]:
    """Return candidates like those that a search proposes.

    They consist of an initial population and several generations of its children.
    """
    population = costs.initial_population(space, max(4, count // 4), rng)
    candidates = list(population)
    while len(candidates) < count:
        child = space.mutate(space.crossover(rng.choice(population), rng.choice(population), rng), rng)
        if child not in candidates and costs.least_violation(child) <= 0.0:
            candidates.append(child)
            population = [*population[1:], child] if rng.random() < 0.5 else population
    return candidates[:count]


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fast", action="store_true", help="measure only the naive variant and all optimisations together"
    )
    common.main(parser.parse_args(), measure)
