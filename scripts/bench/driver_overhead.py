"""What a trial costs the driver: all that a search does but evaluate, by the number of trials there are.

The executor answers at once, with an accuracy that grows with size and has noise, on a profile that is made up.
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
from types import TracebackType
from typing import Any, Self

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
from nas.search.executors import AHEAD
from nas.search.sampler import Trials
from nas.search.storage import Storage
from nas.space import SearchSpace
from nas.study import Search

_AT = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
_WINDOW = 100
_EXAMPLES = 5000


class InstantExecutor:
    """Answers in the order of asking, and keeps when, by the clock and by the processor's time."""

    capacity = AHEAD

    def __init__(self, space: SearchSpace) -> None:
        self._largest = _size(space.largest())
        self._waiting: list[tuple[int, Architecture]] = []
        self.times: list[tuple[float, float]] = []

    def submit(self, ticket: int, architecture: Architecture, rival: float) -> None:
        self._waiting.append((ticket, architecture))

    def next_result(self) -> tuple[int, CandidateResult]:
        ticket, architecture = self._waiting.pop(0)
        self.times.append((time.perf_counter(), time.process_time()))
        noise = int(hashlib.sha256(repr(architecture).encode()).hexdigest()[:8], 16) / 2**32 - 0.5
        accuracy = 0.9 - 0.25 * math.exp(-4.0 * _size(architecture) / self._largest) + 0.02 * noise
        return ticket, CandidateResult(architecture, round(accuracy * _EXAMPLES) / _EXAMPLES, _EXAMPLES, 0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.times.append((time.perf_counter(), time.process_time()))


def _size(architecture: Architecture) -> float:
    """About the number of weights in layers."""
    return sum(
        architecture.hidden_size * (4 * 32 * layer.num_attention_heads + 2 * layer.intermediate_size)
        for layer in architecture.layers
    )


def made_up(space: SearchSpace) -> Profile:
    """A profile of one device in which blocks cost by their size, and int8 less than half."""

    def entries() -> Iterator[tuple[str, float]]:
        for hidden in space.dimensions.hidden_size:
            share = hidden / space.teacher.hidden_size
            for embedding in space.compression.embedding:
                yield f"ends/{hidden}/{embedding}", 0.1 * share
            for block, first in product(LAYER_BLOCKS, ("", "first_")):
                for size, choice in space.options(block):
                    of = space.options(block)[-1][0]
                    cost = 1.2 * share * size / of * (1.0 if choice == "none" else 0.4) * (0.4 if first else 1.0)
                    yield f"{first}{block}/{hidden}/{size}/{choice}", 0.03 + cost

    table = {part: {"128": cost} for part, cost in entries()}
    error = {"mape": 0.02, "worst": 0.05, "kendall_tau": 0.98, "networks": 24}
    return Profile(Device(name="cpu"), {}, table, Fit(0.0, 1.0, 1.0), (1.0,), None, {"p50_ms": 13.6}, 0.1, error)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a trial, over the last hundred before each of several numbers of trials."""
    space = SearchSpace.load(arguments.space)
    budgets = tuple(Budget(name=share, device="cpu", p50_ms=f"{share}%") for share in ("20", "10", "5"))
    costs = Costs(common.config_of(space), {"cpu": made_up(space)}, budgets)
    settings = Search(sampler=arguments.sampler, evaluations=arguments.trials)
    executor = InstantExecutor(space)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        where = arguments.storage or Path(folder) / "journal.log"
        trials = Trials(_storage(where), space, costs, settings, arguments.seed)
        opened = time.perf_counter() - started
        state = search(trials, arguments.trials, lambda: executor)
        size_mb = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
        started = time.perf_counter()
        Trials(_storage(where), space, costs, settings, arguments.seed)
        reopened = time.perf_counter() - started
    times = executor.times

    def cost(first: int, last: int) -> tuple[float, float]:
        """Milliseconds a trial between two of them, by the clock and of the processor."""
        wall, cpu = (
            1000.0 * (end - begin) / (last - first) for begin, end in zip(times[first], times[last], strict=True)
        )
        return wall, cpu

    found = {f"{at:,}": cost(at - _WINDOW, at) for at in _AT if at < len(times)} | {"mean": cost(0, len(times) - 1)}
    _show(found)
    return {
        "ms_per_trial": {at.replace(",", ""): wall for at, (wall, _) in found.items()},
        "cpu_ms_per_trial": {at.replace(",", ""): cpu for at, (_, cpu) in found.items()},
        "open_s": opened,
        "reopen_s": reopened,
        "size_mb": size_mb,
        "outcomes": state.outcomes,
    }


def _storage(where: Path | str) -> Storage:
    return Storage(where, "driver-overhead", "made up", ["accuracy", "predicted p50_ms, cpu"])


def _show(found: dict[str, tuple[float, float]]) -> None:
    table = Table("trials", "ms a trial", "of the processor")
    for at, costs in found.items():
        table.add_row(at, *(f"{cost:.2f}" for cost in costs))
    Console().print(table)


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--space", default="minilm-l6", help="a shipped search space, or the path of one")
    made.add_argument("--trials", type=int, default=10_000, help="evaluations of the search")
    made.add_argument("--sampler", default="nsga2", choices=["nsga2", "tpe", "random", "guided"])
    made.add_argument("--storage", help="URL of an empty database; a journal where it is left out")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return made.parse_args()


if __name__ == "__main__":
    common.alone(_arguments(), measure)
