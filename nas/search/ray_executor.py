"""Evaluation on Ray: actors that share one copy of the supernet on each node."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from nas.architecture import Architecture
from nas.cluster import join
from nas.errors import NasError, SearchError
from nas.evaluate import CandidateResult, EvaluationParts, EvaluationRecipe
from nas.evaluate.shared import Key, prefix_keys
from nas.progress import say
from nas.search.executors import AHEAD, Waiting, evaluating_processor, take_most_alike
from nas.study import Search

_MOST_LOSSES = 5
"""A candidate that takes its process or node down this often is not tried again."""
_PATIENCE_S = 30.0
"""After so long without any worker the person who waits is told what is waited for."""


class _Worker:
    """Holds an evaluator in a process of its own."""

    def load(self, parts: EvaluationParts, threads: int, processor: str) -> None:
        self._evaluator = parts.evaluator(threads, processor)

    def evaluate(self, architecture: Architecture, rival: float) -> CandidateResult:
        return self._evaluator.evaluate(architecture, rival)


@dataclass
class _Lane:
    """An actor, what it evaluates (nothing until it is placed and has loaded), and what it evaluated last."""

    actor: Any
    candidate: Waiting | None = None
    last: list[Key] = field(default_factory=list)


class RayExecutor:
    """Evaluates on up to `workers` actors of a Ray cluster; a local one is started if none is joined.

    Weights and texts go through the object store: once to each node, where its actors read them in place. Actors that
    there is no room for yet are left waiting, so that an autoscaler sees them and nodes that join are used. One that is
    lost with its process or node is asked for again, and its candidate evaluated again.
    """

    def __init__(self, recipe: EvaluationRecipe, settings: Search) -> None:
        self.capacity = settings.workers - 1 + AHEAD
        self._recipe, self._settings = recipe, settings
        self._started = join(settings.workers * settings.worker_cpus, "search.executor")
        self._idle: list[_Lane] = []
        self._busy: dict[Any, _Lane] = {}
        self._waiting: list[Waiting] = []
        self._losses: dict[int, int] = {}
        self._lost_starts = 0
        try:
            self._check_local_gpus()
            self._parts = ray.put(recipe.read())
            for _ in range(settings.workers):
                self._start_lane()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _check_local_gpus(self) -> None:
        offered, asked = ray.cluster_resources().get("GPU", 0.0), self._settings.worker_gpus
        if self._started and asked > offered:
            raise SearchError(
                f"search.worker_gpus: each worker asks for {asked:g}, but this machine has {offered:g}; lower it, or "
                "give a cluster by --address"
            )

    @property
    def placed(self) -> int:
        """Workers that have a place and have loaded what they need."""
        return len(self._idle) + sum(lane.candidate is not None for lane in self._busy.values())

    def _start_lane(self) -> None:
        cpus, gpus = self._settings.worker_cpus, self._settings.worker_gpus
        lane = _Lane(ray.remote(num_cpus=cpus, num_gpus=gpus)(_Worker).remote())
        loading = lane.actor.load.remote(self._parts, max(1, int(cpus)), evaluating_processor(self._settings))
        self._busy[loading] = lane

    def submit(self, ticket: int, architecture: Architecture, rival: float) -> None:
        self._waiting.append((ticket, architecture, rival))

    def _start_waiting(self) -> None:
        """Give each idle worker what shares most with its last candidate."""
        while self._idle and self._waiting:
            lane = self._idle.pop(0)
            lane.candidate = take_most_alike(self._waiting, lane.last)
            _, architecture, rival = lane.candidate
            lane.last = prefix_keys(architecture)
            self._busy[lane.actor.evaluate.remote(architecture, rival)] = lane

    def next_result(self) -> tuple[int, CandidateResult]:
        while True:
            self._start_waiting()
            done = self._any_done()
            lane = self._busy.pop(done)
            candidate, lane.candidate = lane.candidate, None
            try:
                result: CandidateResult = ray.get(done)
            except RayTaskError as problem:
                raise _failure(candidate, problem) from problem
            except RayError:
                ray.kill(lane.actor)  # it may only have been out of reach
                self._count_loss(candidate)
                self._start_lane()
                continue
            self._idle.append(lane)
            if candidate:
                self._recipe.check()
                return candidate[0], result
            self._lost_starts = 0

    def _any_done(self) -> Any:
        """Wait for an actor that has loaded, or has evaluated its candidate."""
        while not (done := ray.wait(list(self._busy), timeout=_PATIENCE_S)[0]):
            if not self.placed:
                cpus, gpus = self._settings.worker_cpus, self._settings.worker_gpus
                say(f"search: waiting for a Ray node with room for a worker (CPUs: {cpus:g}, GPUs: {gpus:g})")
        return done[0]

    def _count_loss(self, candidate: Waiting | None) -> None:
        """Have a lost candidate evaluated again, within bounds; a worker may also be lost before it has one."""
        if candidate is None:
            self._lost_starts += 1
            if self._lost_starts >= _MOST_LOSSES * self._settings.workers:
                raise SearchError(
                    f"search.workers: {self._lost_starts} in a row were lost while they loaded; "
                    "give them more memory, or see Ray's logs"
                )
            return
        ticket, architecture, _ = candidate
        self._losses[ticket] = self._losses.get(ticket, 0) + 1
        if self._losses[ticket] >= _MOST_LOSSES:
            raise SearchError(
                f"candidate {architecture.digest} lost its worker {_MOST_LOSSES} times; "
                "give the workers more memory, or fewer search.workers"
            )
        say(f"search: a worker was lost; evaluating {architecture.digest} again")
        self._waiting.insert(0, candidate)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in [*self._idle, *self._busy.values()]:
            ray.kill(lane.actor)
        if self._started:
            ray.shutdown()


def _failure(candidate: Waiting | None, problem: RayTaskError) -> NasError:
    """What to tell of an error that a worker raised."""
    if isinstance(problem.cause, NasError):
        return problem.cause
    failed = f"candidate {candidate[1].digest} failed on its worker" if candidate else "a search worker cannot load"
    return SearchError(f"{failed}: {problem.cause!r}; set search.executor = 'inline' to see it in this process")
