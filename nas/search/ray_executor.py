"""Evaluation on Ray: one actor a worker, each with its own copy of the supernet."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from nas.architecture import Architecture
from nas.cluster import join
from nas.errors import SearchError
from nas.evaluate import CandidateResult, EvaluationRecipe
from nas.evaluate.shared import Key, prefix_keys
from nas.search.executors import AHEAD, Waiting, take_most_alike

_MOST_LOSSES = 3
"""A candidate that takes its actor down this often is not tried again."""


class _Worker:
    """Holds an evaluator in a process of its own."""

    def __init__(self, recipe: EvaluationRecipe) -> None:
        self._evaluator = recipe.load()

    def evaluate(self, architecture: Architecture, rival: float) -> CandidateResult:
        return self._evaluator.evaluate(architecture, rival)


@dataclass
class _Lane:
    """An actor, and what it evaluated last."""

    actor: Any
    last: list[Key] = field(default_factory=list)


class RayExecutor:
    """Evaluates on `workers` actors of a Ray cluster; a local one is started if none is joined.

    An actor that dies is replaced and its candidate evaluated again.
    """

    def __init__(self, recipe: EvaluationRecipe, workers: int) -> None:
        self.capacity = workers - 1 + AHEAD
        cores = os.cpu_count() or 1
        self._recipe = replace(recipe, threads=max(1, cores // workers))
        self._started = join(workers)
        self._idle = [_Lane(self._new_actor()) for _ in range(workers)]
        self._waiting: list[Waiting] = []
        self._running: dict[Any, tuple[Waiting, _Lane]] = {}
        self._losses: dict[int, int] = {}

    def _new_actor(self) -> Any:
        return ray.remote(num_cpus=1)(_Worker).remote(self._recipe)

    def submit(self, ticket: int, architecture: Architecture, rival: float) -> None:
        self._waiting.append((ticket, architecture, rival))

    def _start_waiting(self) -> None:
        """Give each idle worker what shares most with its last candidate."""
        while self._idle and self._waiting:
            lane = self._idle.pop(0)
            candidate = take_most_alike(self._waiting, lane.last)
            lane.last = prefix_keys(candidate[1])
            self._running[lane.actor.evaluate.remote(*candidate[1:])] = candidate, lane

    def next_result(self) -> tuple[int, CandidateResult]:
        while True:
            self._start_waiting()
            (done,), _ = ray.wait(list(self._running), num_returns=1)
            candidate, lane = self._running.pop(done)
            try:
                result: CandidateResult = ray.get(done)
            except RayActorError:
                self._count_loss(candidate)
                self._idle.append(_Lane(self._new_actor()))
                self._waiting.insert(0, candidate)
                continue
            except RayTaskError as problem:
                raise SearchError(
                    f"candidate {candidate[1].digest} failed on its worker: {problem.cause!r}; "
                    "set search.executor = 'inline' to see it in this process"
                ) from problem
            self._idle.append(lane)
            return candidate[0], result

    def _count_loss(self, candidate: Waiting) -> None:
        ticket, architecture, _ = candidate
        self._losses[ticket] = self._losses.get(ticket, 0) + 1
        if self._losses[ticket] >= _MOST_LOSSES:
            raise SearchError(
                f"candidate {architecture.digest} lost its worker {_MOST_LOSSES} times; "
                "give the workers more memory, or fewer search.workers"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in [*self._idle, *(lane for _, lane in self._running.values())]:
            ray.kill(lane.actor)
        if self._started:
            ray.shutdown()
