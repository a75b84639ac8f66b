"""Measure candidates per second with different numbers of Ray workers, on one list of candidates and one supernet.

Every worker has one processor and one thread, even if there is only one worker. For each number of workers, there is a
separate executor. It first evaluates all candidates, repeatedly if needed, until all its workers have started. In each
of the `--rounds` rounds, all executors then evaluate all candidates, one executor after the other. The benchmark
reports the median over rounds. Every candidate is evaluated on all texts, even if it cannot win. If `RAY_ADDRESS` is
set, the benchmark uses the cluster at this address. It needs a run whose supernet is trained and whose devices are
profiled.
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

from nas.architecture import Architecture
from nas.cluster import cpu_count, join
from nas.errors import ClusterError
from nas.pipeline import Run
from nas.pipeline.profiles import costs_of
from nas.pipeline.searches import evaluation
from nas.search.executors import evaluate_all
from nas.search.ray_executor import RayExecutor
from nas.study import Search


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the candidates, print a table, and return the candidates per second for each number of workers."""
    workers, count = arguments.workers, arguments.candidates
    candidates = proposals(run.study.space, costs_of(run), count, random.Random(arguments.seed))
    seconds: dict[int, list[float]] = {number: [] for number in workers}
    join(sum(workers), "ray_scaling")
    if (available := cpu_count()) < sum(workers):
        raise ClusterError(
            f"--workers: {sum(workers)} processors are needed at once, but the cluster has only "
            f"{available:g}; use fewer workers"
        )
    with ExitStack() as stack:
        executors = {}
        for number in workers:
            settings = Search(executor="ray", workers=number)
            executors[number] = stack.enter_context(RayExecutor(evaluation(run), settings))
        for number, executor in executors.items():
            while executor.placed < number:
                _evaluate(executor, candidates)
        for _ in range(arguments.rounds):
            for number, executor in executors.items():
                seconds[number].append(_evaluate(executor, candidates))
    ray.shutdown()
    rates = {number: count / median(times) for number, times in seconds.items()}
    columns = ("workers", "candidates/s", "fastest and slowest round", "speed-up over the first row")
    table = common.table(f"{count} candidates, {arguments.rounds} rounds", *columns)
    for number, rate in rates.items():
        spread = f"{count / min(seconds[number]):.2f}, {count / max(seconds[number]):.2f}"
        table.add_row(str(number), f"{rate:.2f}", spread, f"{rate / rates[workers[0]]:.2f}")
    Console().print(table)
    return {
        "workers": workers,
        "candidates_per_second": [round(rate, 3) for rate in rates.values()],
        "ratio": [round(rate / rates[workers[0]], 3) for rate in rates.values()],
    }


def _evaluate(executor: RayExecutor, candidates: list[Architecture]) -> float:
    """Evaluate all candidates, keeping the executor's queue as full as in a search, and return the seconds."""
    started = time.monotonic()
    for _ in evaluate_all(executor, candidates):
        pass
    return time.monotonic() - started


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    common.main(parser.parse_args(), measure)
