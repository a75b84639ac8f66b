"""Compare two searches of the same supernet in the same time: a simple search and the one that the study defines.

The simple search is called `at first`. It uses NSGA-II, extracts each candidate, and evaluates it on all texts in full
precision. The study's search is called `now`. Both are stopped after `--seconds`. For each budget, the benchmark
considers the candidates that are predicted to meet the budget, and selects the one that is most accurate on the search
set. It reports the accuracy of this candidate, measured again in full precision. The benchmark needs a run whose
supernet is trained and whose devices are profiled.
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from typing import Any

import common
from candidates_per_second import Naive
from datasets import Dataset
from rich.console import Console
from samplers import TimingExecutor

from nas.evaluate import CandidateResult
from nas.pipeline import Run
from nas.pipeline.data import metric_of
from nas.pipeline.profiles import costs_of
from nas.pipeline.searches import evaluation
from nas.search import search
from nas.search.costs import Costs
from nas.search.executors import Executor, Forwarding, InlineExecutor
from nas.search.front import ranking
from nas.space import SearchSpace
from nas.study import Search

_NO_LIMIT = 1_000_000


class _TimeIsUp(Exception):
    pass


class _UntilDeadline(Forwarding):
    """An executor that raises `_TimeIsUp` instead of returning a result once a deadline has passed."""

    def __init__(self, executor: Executor, end: float) -> None:
        super().__init__(executor)
        self._end = end

    def next_result(self) -> tuple[int, CandidateResult]:
        if time.monotonic() >= self._end:
            raise _TimeIsUp
        return super().next_result()


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run both searches with each seed for the given time, print a table, and return the results."""
    study, costs, recipe, seconds = run.study, costs_of(run), evaluation(run), arguments.seconds
    parts = recipe.read()
    naive = Naive(parts.evaluator().supernet, Dataset(parts.texts), metric_of(run), by_length=True)
    first_version = study.search.model_copy(update={"sampler": "nsga2"})
    searches: dict[str, Any] = {"at first": [], "now": []}
    for seed in arguments.seeds:
        for name, settings in {"at first": first_version, "now": study.search}.items():
            executor = TimingExecutor(naive.evaluate) if name == "at first" else InlineExecutor(recipe)
            results = _search(executor, seconds, study.space, costs, settings, seed)
            best = {budget.name: ranking(results, costs, budget, 0.0)[:1] for budget in study.budgets}
            best_accuracies = {
                key: naive.evaluate(candidate.architecture).accuracy
                for key, best_candidates in best.items()
                for candidate in best_candidates
            }
            complete_count = sum(result.complete for result in results)
            searches[name].append(
                {"seed": seed, "candidates": len(results), "whole": complete_count, "best": best_accuracies}
            )
    columns = ("", "seed", "candidates", "evaluated on all texts", *(budget.name for budget in study.budgets))
    table = common.table(f"searches of {seconds:.0f} s each", *columns)
    for name, rows in searches.items():
        for row in rows:
            figures = (
                f"{row['best'][budget.name]:.4f}" if budget.name in row["best"] else "" for budget in study.budgets
            )
            table.add_row(name, str(row["seed"]), str(row["candidates"]), str(row["whole"]), *figures)
    Console().print(table)
    return {"seconds": seconds} | searches


def _search(
    executor: Executor, seconds: float, space: SearchSpace, costs: Costs, settings: Search, seed: int
) -> list[CandidateResult]:
    with common.temporary_trials(space, costs, settings, seed) as trials:
        end = time.monotonic() + seconds
        with suppress(_TimeIsUp):
            search(trials, _NO_LIMIT, lambda: _UntilDeadline(executor, end))
        return trials.results()


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    common.main(parser.parse_args(), measure)
