"""An executor with simulated workers and a simulated clock. The workers can be slow, die and be replaced.

The driver (the process that runs the search) is real. An evaluation takes only simulated time. The processor time that
the driver really uses between two calls is added to the simulated clock. Workers that finish in the meantime are idle
until the driver gives them work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Self

from nas.architecture import Architecture
from nas.evaluate import CandidateResult
from nas.evaluate.shared import Key, prefix_keys
from nas.search.executors import AHEAD, Executor, Waiting, pop_longest_prefix

Evaluate = Callable[[Architecture, float], CandidateResult]
"""A function that returns the result of a candidate. The second argument is the accuracy to beat. The `seconds` of the
result are the simulated time of the evaluation."""


@dataclass(frozen=True)
class Pool:
    """The settings of a pool of simulated workers, including the probabilities of failures and delays."""

    workers: int
    death: float = 0.0
    """The probability that a worker dies during an evaluation, at a random moment."""
    back_s: float = 30.0
    """The number of seconds until a dead worker is replaced."""
    straggling: float = 0.0
    """The probability that an evaluation takes longer than usual. Its time is then multiplied by a factor from a Pareto
    distribution (exponent 1.5, at most 50)."""


@dataclass
class _Worker:
    last: list[Key]


class SimulatedExecutor(Executor):
    """An executor that simulates the workers of a pool.

    All times are in simulated seconds. `now_s` is the time since the start, and `driver_s` is the part of it that the
    driver used. `busy_s` is the total time of completed evaluations, over all workers. `lost` is the number of
    evaluations during which the worker died.
    """

    def __init__(self, evaluate: Evaluate, pool: Pool, seed: int = 0) -> None:
        super().__init__(pool.workers - 1 + AHEAD)
        self.now_s = self.driver_s = self.busy_s = 0.0
        self.lost = 0
        self._evaluate, self._pool, self._rng = evaluate, pool, random.Random(f"simulation/{seed}")
        self._idle = [_Worker([]) for _ in range(pool.workers)]
        self._order = count()
        self._events: list[tuple[float, int, _Worker, Waiting | None, CandidateResult | None]] = []
        self._driver_since = time.process_time()

    def next_result(self) -> tuple[int, CandidateResult]:
        while True:
            self._start_waiting()
            self._count_driver()
            at, _, worker, candidate, result = heappop(self._events)
            self.now_s = max(self.now_s, at)
            if candidate and result is None:
                self.lost += 1
                self._waiting.insert(0, candidate)
                self._schedule(at + self._pool.back_s, _Worker([]))
                continue
            self._idle.append(worker)
            if candidate and result:
                return candidate[0], result

    def _start_waiting(self) -> None:
        while self._idle and self._waiting:
            worker = self._idle.pop(0)
            candidate = pop_longest_prefix(self._waiting, worker.last)
            worker.last = prefix_keys(candidate[1])
            self._count_driver()
            self._start(worker, candidate)
            self._driver_since = time.process_time()

    def _start(self, worker: _Worker, candidate: Waiting) -> None:
        result = self._evaluate(*candidate[1:])
        seconds = result.seconds
        if self._rng.random() < self._pool.straggling:
            seconds *= min(self._rng.paretovariate(1.5), 50.0)
        if self._rng.random() < self._pool.death:
            self._schedule(self.now_s + seconds * self._rng.random(), worker, candidate)
            return
        self.busy_s += seconds
        self._schedule(self.now_s + seconds, worker, candidate, result)

    def _schedule(
        self, at: float, worker: _Worker, candidate: Waiting | None = None, result: CandidateResult | None = None
    ) -> None:
        heappush(self._events, (at, next(self._order), worker, candidate, result))

    def _count_driver(self) -> None:
        """Advance the clock by the processor time that the driver has used since the last call."""
        now = time.process_time()
        self.driver_s += now - self._driver_since
        self.now_s += now - self._driver_since
        self._driver_since = now

    def __enter__(self) -> Self:
        self._driver_since = time.process_time()
        return self
