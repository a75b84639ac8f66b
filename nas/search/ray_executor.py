"""Evaluates candidates on Ray. All Ray actors on a node share one copy of the supernet.

`RayExecutor` is an `executors.Executor`. `executors.executor_for` creates a `RayExecutor`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from nas.architecture import Architecture
from nas.cluster import join
from nas.errors import NasError, SearchError
from nas.evaluate import CandidateResult, EvaluationParts, EvaluationRecipe
from nas.evaluate.shared import Key, prefix_keys
from nas.progress import say
from nas.search.executors import AHEAD, Executor, Waiting, evaluating_processor, pop_longest_prefix
from nas.study import Search

_MAX_LOSSES = 5
"""The search fails when this many workers have been lost while they evaluated the same candidate.

A worker is lost if its process or node dies.
"""
_WAIT_TIMEOUT_S = 30.0
"""The seconds between two messages that the search has no worker and is waiting for a Ray node."""


class _Worker:
    """A Ray actor: a separate process that evaluates candidates."""

    def load(self, parts: EvaluationParts, threads: int, processor: str) -> None:
        self._evaluator = parts.evaluator(threads, processor)

    def evaluate(self, architecture: Architecture, to_beat: float) -> CandidateResult:
        return self._evaluator.evaluate(architecture, to_beat)


@dataclass
class _Slot:
    """A worker: its Ray actor, the candidate that it is evaluating, and the prefix keys of its latest candidate.

    The actor gets no candidate until Ray has placed it on a node and it has loaded the supernet.
    """

    actor: Any
    candidate: Waiting | None = None
    previous_keys: list[Key] = field(default_factory=list)


class RayExecutor(Executor):
    """Evaluates candidates on up to `settings.workers` actors of a Ray cluster.

    `nas.cluster.join` connects this process to a cluster or starts a local one. Weights and texts are sent to each node
    once, through Ray's object store. All actors on the node read this copy. Actors that do not fit into the cluster
    stay queued, so that an autoscaler sees the demand and adds nodes. If the process or the node of an actor dies, a
    new actor is started and the candidate is evaluated again.
    """

    def __init__(self, recipe: EvaluationRecipe, settings: Search) -> None:
        super().__init__(settings.workers - 1 + AHEAD)
        self._recipe, self._settings = recipe, settings
        self._owns_cluster = join(settings.workers * settings.worker_cpus, "search.executor")
        self._idle: list[_Slot] = []
        self._busy: dict[Any, _Slot] = {}
        self._losses: dict[int, int] = {}
        self._lost_starts = 0
        try:
            self._check_local_gpus()
            self._parts = ray.put(recipe.read())
            for _ in range(settings.workers):
                self._start_slot()
        except BaseException:
            self.__exit__()
            raise

    def _check_local_gpus(self) -> None:
        available, needed = ray.cluster_resources().get("GPU", 0.0), self._settings.worker_gpus
        if self._owns_cluster and needed > available:
            raise SearchError(
                f"search.worker_gpus: must be at most {available:g}, the number of GPUs of this machine, but got "
                f"{needed:g}; lower search.worker_gpus, or connect to a cluster with --address"
            )

    @property
    def placed(self) -> int:
        """The number of workers that are ready: Ray has placed them on a node, and they have loaded the supernet."""
        return len(self._idle) + sum(slot.candidate is not None for slot in self._busy.values())

    def _start_slot(self) -> None:
        cpus, gpus = self._settings.worker_cpus, self._settings.worker_gpus
        slot = _Slot(ray.remote(num_cpus=cpus, num_gpus=gpus)(_Worker).remote())
        loading = slot.actor.load.remote(self._parts, max(1, int(cpus)), evaluating_processor(self._settings))
        self._busy[loading] = slot

    def _start_waiting(self) -> None:
        """Assign a waiting candidate to each idle worker; `pop_longest_prefix` chooses the candidate."""
        while self._idle and self._waiting:
            slot = self._idle.pop(0)
            slot.candidate = pop_longest_prefix(self._waiting, slot.previous_keys)
            _, architecture, to_beat = slot.candidate
            slot.previous_keys = prefix_keys(architecture)
            self._busy[slot.actor.evaluate.remote(architecture, to_beat)] = slot

    def next_result(self) -> tuple[int, CandidateResult]:
        while True:
            self._start_waiting()
            call = self._wait_for_call()
            slot = self._busy.pop(call)
            candidate, slot.candidate = slot.candidate, None
            try:
                result: CandidateResult = ray.get(call)
            except RayTaskError as problem:
                raise _failure(candidate, problem) from problem
            except RayError:
                ray.kill(slot.actor)  # the actor may still run, if it was only unreachable
                self._count_loss(candidate)
                self._start_slot()
                continue
            self._idle.append(slot)
            if candidate:
                self._recipe.check()
                return candidate[0], result
            self._lost_starts = 0

    def _wait_for_call(self) -> Any:
        """Wait until any actor has finished loading or evaluating, and return the Ray reference of that call."""
        while not (finished := ray.wait(list(self._busy), timeout=_WAIT_TIMEOUT_S)[0]):
            if not self.placed:
                cpus, gpus = self._settings.worker_cpus, self._settings.worker_gpus
                say(f"search: waiting for a Ray node with room for a worker (CPUs: {cpus:g}, GPUs: {gpus:g})")
        return finished[0]

    def _count_loss(self, candidate: Waiting | None) -> None:
        """Count the loss of a worker, and queue the candidate that it was evaluating again.

        `candidate` is None if the worker was lost while it loaded the supernet. Raises `SearchError` if too many
        workers have been lost.
        """
        if candidate is None:
            self._lost_starts += 1
            if self._lost_starts >= _MAX_LOSSES * self._settings.workers:
                raise SearchError(
                    f"search.workers: {self._lost_starts} workers in a row were lost while they loaded the supernet; "
                    "lower search.workers or use nodes with more memory, or look for the cause in Ray's logs"
                )
            return
        ticket, architecture, _ = candidate
        self._losses[ticket] = self._losses.get(ticket, 0) + 1
        if self._losses[ticket] >= _MAX_LOSSES:
            raise SearchError(
                f"search.workers: the worker of candidate {architecture.digest} was lost {_MAX_LOSSES} times; lower "
                "search.workers, or use nodes with more memory"
            )
        say(f"search: a worker was lost; evaluating candidate {architecture.digest} again")
        self._waiting.insert(0, candidate)

    def __exit__(self, *error: object) -> None:
        for slot in [*self._idle, *self._busy.values()]:
            ray.kill(slot.actor)
        if self._owns_cluster:
            ray.shutdown()


def _failure(candidate: Waiting | None, problem: RayTaskError) -> NasError:
    """Return the error to raise in this process for `problem`, an error that a worker raised."""
    if isinstance(problem.cause, NasError):
        return problem.cause
    failed = (
        f"candidate {candidate[1].digest} failed on its worker" if candidate else "a worker failed to load the supernet"
    )
    return SearchError(
        f"{failed}: {problem.cause!r}; set search.executor = 'inline' to reproduce the error in this process"
    )
