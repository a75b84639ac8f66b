"""Measure how the driver's time per trial depends on the number of earlier trials.

The driver is the process that runs the search. Its time is the time of a search without the evaluations, because the
executor returns simulated results immediately. Their accuracy increases with the size of the network and contains
noise. Their latencies come from a synthetic profile.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import common
from rich.console import Console
from rich.table import Table

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.budget import Budget
from nas.device import Device
from nas.evaluate import CandidateResult
from nas.latency.profile import Fit, Profile
from nas.search import search
from nas.search.costs import Costs
from nas.search.executors import AHEAD, Executor
from nas.search.sampler import Trials
from nas.search.storage import Storage
from nas.space import SearchSpace
from nas.study import Search

_TRIAL_COUNTS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
_WINDOW = 100
_EXAMPLES = 5000


class InstantExecutor(Executor):
    """An executor that returns results immediately and in order.

    For each result, `times` contains the wall-clock time and the processor time, in seconds, at which the result was
    requested.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(AHEAD)
        self._largest = _size(space.largest())
        self.times: list[tuple[float, float]] = []

    def next_result(self) -> tuple[int, CandidateResult]:
        ticket, architecture, _ = self._waiting.pop(0)
        self.times.append((time.perf_counter(), time.process_time()))
        noise = int(hashlib.sha256(repr(architecture).encode()).hexdigest()[:8], 16) / 2**32 - 0.5
        accuracy = 0.9 - 0.25 * math.exp(-4.0 * _size(architecture) / self._largest) + 0.02 * noise
        return ticket, CandidateResult(architecture, round(accuracy * _EXAMPLES) / _EXAMPLES, _EXAMPLES, 0.1)

    def __exit__(self, *error: object) -> None:
        self.times.append((time.perf_counter(), time.process_time()))


def _size(architecture: Architecture) -> float:
    """Return the approximate number of weights in the layers."""
    return sum(
        architecture.hidden_size * (4 * 32 * layer.num_attention_heads + 2 * layer.intermediate_size)
        for layer in architecture.layers
    )


def synthetic_profile(space: SearchSpace) -> Profile:
    """Return a profile in which the latency of a block grows with its size and is lower with compression."""

    def entries() -> Iterator[tuple[str, float]]:
        for hidden in space.dimensions.hidden_size:
            share = hidden / space.teacher.hidden_size
            for embedding in space.compression.embedding:
                yield f"ends/{hidden}/{embedding}", 0.1 * share
            for block, first in product(LAYER_BLOCKS, ("", "first_")):
                for size, choice in space.options(block):
                    largest_size = space.options(block)[-1][0]
                    cost = (
                        1.2 * share * size / largest_size * (1.0 if choice == "none" else 0.4) * (0.4 if first else 1.0)
                    )
                    yield f"{first}{block}/{hidden}/{size}/{choice}", 0.03 + cost

    table = {part: {"128": cost} for part, cost in entries()}
    error = {"mape": 0.02, "worst": 0.05, "kendall_tau": 0.98, "networks": 24}
    return Profile(Device(name="cpu"), {}, table, Fit(0.0, 1.0, 1.0), (1.0,), None, {"p50_ms": 13.6}, 0.1, error)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a search, print a table, and return the milliseconds per trial at several numbers of trials.

    Each value is the mean over the hundred trials before that number.
    """
    space = SearchSpace.load(arguments.space)
    budgets = tuple(Budget(name=share, device="cpu", p50_ms=f"{share}%") for share in ("20", "10", "5"))
    costs = Costs(common.config_of(space), {"cpu": synthetic_profile(space)}, budgets)
    settings = Search(sampler=arguments.sampler, evaluations=arguments.trials)
    executor = InstantExecutor(space)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        storage_location = arguments.storage or Path(folder) / "journal.log"
        trials = Trials(_storage(storage_location), space, costs, settings, arguments.seed)
        open_s = time.perf_counter() - started
        state = search(trials, arguments.trials, lambda: executor)
        size_mb = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
        started = time.perf_counter()
        Trials(_storage(storage_location), space, costs, settings, arguments.seed)
        reopen_s = time.perf_counter() - started
    times = executor.times

    def cost(first: int, last: int) -> tuple[float, float]:
        """Return the wall-clock time and the processor time per trial, in ms, from trial `first` to trial `last`."""
        wall, cpu = (
            1000.0 * (end - begin) / (last - first) for begin, end in zip(times[first], times[last], strict=True)
        )
        return wall, cpu

    times_at = {f"{at:,}": cost(at - _WINDOW, at) for at in _TRIAL_COUNTS if at < len(times)} | {
        "mean": cost(0, len(times) - 1)
    }
    _show(times_at)
    return {
        "ms_per_trial": {at.replace(",", ""): wall for at, (wall, _) in times_at.items()},
        "cpu_ms_per_trial": {at.replace(",", ""): cpu for at, (_, cpu) in times_at.items()},
        "open_s": open_s,
        "reopen_s": reopen_s,
        "size_mb": size_mb,
        "outcomes": state.outcomes,
    }


def _storage(location: Path | str) -> Storage:
    return Storage(location, "driver-overhead", "made up", ["accuracy", "predicted p50_ms, cpu"])


def _show(times_at: dict[str, tuple[float, float]]) -> None:
    table = Table("trials", "ms per trial", "processor ms per trial")
    for at, costs in times_at.items():
        table.add_row(at, *(f"{cost:.2f}" for cost in costs))
    Console().print(table)


if __name__ == "__main__":
    parser = common.parser(__doc__, with_study=False)
    parser.add_argument("--space", default="minilm-l6", help="name of a shipped search space, or path of a TOML file")
    parser.add_argument("--trials", type=int, default=10_000, help="number of evaluations in the search")
    parser.add_argument("--sampler", default="nsga2", choices=["nsga2", "tpe", "random", "guided"])
    parser.add_argument("--storage", help="URL of an empty database (default: a journal in a temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    common.run_benchmark(parser.parse_args(), measure)
