"""Evaluation on Ray: one actor a worker, each with its own copy of the supernet."""

from __future__ import annotations

import os
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from nas.architecture import Architecture
from nas.cluster import join
from nas.errors import SearchError
from nas.evaluate import CandidateResult, EvaluationRecipe

_MOST_LOSSES = 3
"""A candidate that takes its actor down this often is not tried again."""


class _Worker:
    """Holds an evaluator in a process of its own."""

    def __init__(self, recipe: EvaluationRecipe) -> None:
        self._evaluator = recipe.load()

    def evaluate(self, architecture: Architecture) -> CandidateResult:
        return self._evaluator.evaluate(architecture)


class RayExecutor:
    """Evaluates on `workers` actors of a Ray cluster; a local one is started if none is joined.

    An actor that dies is replaced and its candidate evaluated again.
    """

    def __init__(self, recipe: EvaluationRecipe, workers: int) -> None:
        self.workers = workers
        cores = os.cpu_count() or 1
        self._recipe = replace(recipe, threads=max(1, cores // workers))
        self._started = join(workers)
        self._idle = [self._new_actor() for _ in range(workers)]
        self._running: dict[Any, tuple[int, Architecture, Any]] = {}
        self._losses: dict[int, int] = {}

    def _new_actor(self) -> Any:
        return ray.remote(num_cpus=1)(_Worker).remote(self._recipe)

    def submit(self, ticket: int, architecture: Architecture) -> None:
        actor = self._idle.pop()
        self._running[actor.evaluate.remote(architecture)] = (ticket, architecture, actor)

    def next_result(self) -> tuple[int, CandidateResult]:
        while True:
            (done,), _ = ray.wait(list(self._running), num_returns=1)
            ticket, architecture, actor = self._running.pop(done)
            try:
                result: CandidateResult = ray.get(done)
            except RayActorError:
                self._replace_actor(ticket, architecture)
                continue
            except RayTaskError as problem:
                raise SearchError(
                    f"candidate {architecture.digest} failed on its worker: {problem.cause!r}; "
                    "set search.executor = 'inline' to see it in this process"
                ) from problem
            self._idle.append(actor)
            return ticket, result

    def _replace_actor(self, ticket: int, architecture: Architecture) -> None:
        self._losses[ticket] = self._losses.get(ticket, 0) + 1
        if self._losses[ticket] >= _MOST_LOSSES:
            raise SearchError(
                f"candidate {architecture.digest} lost its worker {_MOST_LOSSES} times; "
                "give the workers more memory, or fewer search.workers"
            )
        self._idle.append(self._new_actor())
        self.submit(ticket, architecture)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in [*self._idle, *(actor for _, _, actor in self._running.values())]:
            ray.kill(actor)
        if self._started:
            ray.shutdown()
