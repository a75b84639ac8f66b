"""Measure how much a search gains if it starts from the solutions of a knapsack problem (see `nas.search.knapsack`).

The benchmark compares the knapsack solutions, searches that start from them, and searches that do not. For each budget,
the table shows the best accuracy on the search set among the networks that are predicted to meet the budget. The
benchmark needs a run whose supernet is trained and whose devices are profiled. It does not change this run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
from rich.console import Console
from samplers import best_within, largest_limit, run_one

from nas.evaluate import CandidateResult, Memory
from nas.pipeline import Run
from nas.pipeline.profiles import costs_of
from nas.pipeline.searches import evaluation
from nas.search.costs import Costs
from nas.search.executors import CachingExecutor, Executor, InlineExecutor
from nas.search.knapsack import best_sums, score, single_changes

_EARLY_EVALUATIONS = 10
"""The mean over budgets is reported after this number of evaluations, and again at the end of the search."""


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Score all single changes, solve the knapsack problem, search, print a table, and return all results."""
    space, costs, recipe, evaluations = run.study.space, costs_of(run), evaluation(run), arguments.evaluations
    largest_limit(costs)  # raises for a study without a suitable budget before minutes are spent on scoring
    with TemporaryDirectory() as folder:
        memory = Memory(Path(folder) / "evaluations.jsonl", recipe.precision(recipe.processor))

        def executor() -> Executor:
            return CachingExecutor(InlineExecutor(recipe), memory)

        changes, started = single_changes(space), time.monotonic()
        accuracies = score(executor(), changes)
        scored = time.monotonic()
        sums = best_sums(space, costs, accuracies)
        solved = time.monotonic()
        score(executor(), sums)
        solutions = [known for network in sums if (known := memory.get(network))]
        rows = [("solutions", _best(costs, solutions), None, None)]
        for seed in arguments.seeds:
            for title, first_candidates in (("without", []), ("with", sums)):
                outcome = run_one(
                    run.study.search.sampler, seed, evaluations, space, costs, executor(), first_candidates
                )
                means = outcome["within_budgets"]
                rows.append(
                    (
                        f"seed {seed} {title}",
                        _best(costs, outcome["results"]),
                        means[:_EARLY_EVALUATIONS][-1],
                        means[-1],
                    )
                )
    print(
        f"{len(changes)} single changes evaluated in {scored - started:.0f} s; knapsack problems of "
        f"{len(costs.budgets)} budgets solved in {solved - scored:.1f} s"
    )
    title = "best accuracy within each budget, and the mean over budgets after a number of evaluations"
    budget_names = (budget.name for budget in costs.budgets)
    table = common.table(title, "", *budget_names, f"after {_EARLY_EVALUATIONS}", f"after {evaluations}")
    for title, best, *means in rows:
        figures = [best.get(budget.name) for budget in costs.budgets] + means
        table.add_row(title, *("" if figure is None else f"{figure:.4f}" for figure in figures))
    Console().print(table)
    searches = [{"search": title, "best": best, "early": early, "end": end} for title, best, early, end in rows]
    return {"changes": len(changes), "seconds": scored - started, "solved_s": solved - scored, "searches": searches}


def _best(costs: Costs, results: list[CandidateResult]) -> dict[str, float]:
    best = best_within(results, costs)[-1].tolist() if results else [0.0] * len(costs.budgets)
    return {budget.name: accuracy for budget, accuracy in zip(costs.budgets, best, strict=True) if accuracy}


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    common.main(parser.parse_args(), measure)
