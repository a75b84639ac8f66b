"""Candidates a second with one Ray worker and with several, on one list and one supernet.

Every worker has one processor and one thread, the single one too: more threads for it would be another comparison. All
workers are there from the start; each number of them takes the list in turns with the others, once to warm up and then
`--rounds` times, and the median counts. Candidates are evaluated wholly, not raced. With `RAY_ADDRESS` on that cluster.
Needs a run whose supernet is trained and whose devices are profiled.
"""

from __future__ import annotations

import argparse
import random
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

import common
import ray
from candidates_per_second import proposals
from rich.console import Console
from rich.table import Table

from nas.architecture import Architecture
from nas.cluster import join, processors
from nas.errors import ClusterError
from nas.pipeline import Run
from nas.pipeline.profiles import costs_of
from nas.pipeline.searches import evaluation
from nas.search.ray_executor import RayExecutor
from nas.study import Search


def measure(run: Run, workers: list[int], count: int, rounds: int, seed: int) -> dict[str, Any]:
    """Measure and print; returns candidates a second of each number of workers."""
    candidates = proposals(run.study.space, costs_of(run), count, random.Random(seed))
    taken: dict[int, list[float]] = {number: [] for number in workers}
    join(sum(workers), "ray_scaling")
    if (offered := processors()) < sum(workers):
        raise ClusterError(
            f"--workers: all of them need {sum(workers)} processors at once, but the cluster has "
            f"{offered:g}; ask for fewer"
        )
    with ExitStack() as stack:
        executors = {}
        for number in workers:
            settings = Search(executor="ray", workers=number)
            executors[number] = stack.enter_context(RayExecutor(evaluation(run), settings))
        for number, executor in executors.items():
            while executor.placed < number:
                _evaluate(executor, candidates)
        for _ in range(rounds):
            for number, executor in executors.items():
                taken[number].append(_evaluate(executor, candidates))
    ray.shutdown()
    rates = {number: count / median(times) for number, times in taken.items()}
    table = Table(title=f"{count} candidates, {rounds} rounds")
    for column in ("workers", "candidates/s", "fastest and slowest round", "times the first"):
        table.add_column(column, justify="right")
    for number, rate in rates.items():
        spread = f"{count / min(taken[number]):.2f}, {count / max(taken[number]):.2f}"
        table.add_row(str(number), f"{rate:.2f}", spread, f"{rate / rates[workers[0]]:.2f}")
    Console().print(table)
    return {
        "workers": workers,
        "candidates_per_second": [round(rate, 3) for rate in rates.values()],
        "ratio": [round(rate / rates[workers[0]], 3) for rate in rates.values()],
    }


def _evaluate(executor: RayExecutor, candidates: list[Architecture]) -> float:
    """The seconds that all candidates take, as many at a time as the executor has in hand in a search."""
    started = time.monotonic()
    for number, architecture in enumerate(candidates):
        if number >= executor.capacity:
            executor.next_result()
        executor.submit(number, architecture, 0.0)
    for _ in candidates[-executor.capacity :]:
        executor.next_result()
    return time.monotonic() - started


def _arguments() -> argparse.Namespace:
    made = common.parser(__doc__)
    made.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    made.add_argument("--candidates", type=int, default=40)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--seed", type=int, default=0)
    return made.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    counts = arguments.candidates, arguments.rounds, arguments.seed
    common.main(arguments, lambda run: measure(run, arguments.workers, *counts))
