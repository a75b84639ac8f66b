"""Executors evaluate candidate architectures, either in this process or on Ray workers (`ray_executor.py`).

An `Executor` evaluates the architectures that are submitted to it. `executor_for` creates the executor that a study's
settings name. `CachingExecutor` wraps an executor and reuses the results of earlier evaluations. `loop.py`,
`uniform.py` and `knapsack.py` use executors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from nas.architecture import Architecture
from nas.evaluate import CandidateResult, EvaluationRecipe, Memory
from nas.evaluate.shared import Key, longest_prefix, prefix_keys
from nas.model.precision import training_processor
from nas.study import Search

Waiting = tuple[int, Architecture, float]
"""A candidate that waits for its evaluation: its ticket, its architecture, and the objective to beat (see
`Executor.submit`)."""
AHEAD = 8
"""A worker's next candidate is chosen from at most this many waiting candidates."""


def pop_longest_prefix(waiting: list[Waiting], previous_keys: list[Key]) -> Waiting:
    """Remove and return the waiting candidate that shares the longest layer prefix with a worker's previous one.

    Only the first `AHEAD` waiting candidates are considered. `previous_keys` are the `prefix_keys` of the worker's
    previous candidate, whose hidden states can be reused.
    """
    return waiting.pop(longest_prefix([architecture for _, architecture, _ in waiting[:AHEAD]], previous_keys))


class Executor(ABC):
    """Evaluates candidates. Subclasses take the next candidate from the list `_waiting`.

    If possible, candidates that share their first layers are evaluated one after the other, so that these layers are
    computed only once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        """The maximum number of submitted candidates whose results have not been returned yet."""
        self._waiting: list[Waiting] = []

    def submit(self, ticket: int, architecture: Architecture, to_beat: float) -> None:
        """Queue a candidate for evaluation.

        `ticket` is a number, chosen by the caller, that identifies the result. The evaluation may stop early if the
        candidate is very unlikely to reach the objective `to_beat`.
        """
        self._waiting.append((ticket, architecture, to_beat))

    @abstractmethod
    def next_result(self) -> tuple[int, CandidateResult]:
        """Wait until one of the submitted candidates has been evaluated, and return its ticket and its result.

        Raises `SearchError` if the supernet's weights have changed since the search started.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Release the workers and other resources, if there are any."""
        return


class InlineExecutor(Executor):
    """Evaluates candidates in this process, so that breakpoints work.

    A candidate is evaluated when `next_result` is called.
    """

    def __init__(self, recipe: EvaluationRecipe) -> None:
        super().__init__(AHEAD)
        self._recipe = recipe
        self._evaluator = recipe.load()
        self._previous_keys: list[Key] = []

    def next_result(self) -> tuple[int, CandidateResult]:
        ticket, architecture, to_beat = pop_longest_prefix(self._waiting, self._previous_keys)
        self._previous_keys = prefix_keys(architecture)
        result = self._evaluator.evaluate(architecture, to_beat)
        self._recipe.check()
        return ticket, result


class Forwarding(Executor):
    """Forwards all calls to a wrapped executor. Subclasses override individual methods."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor.capacity)
        self._executor = executor

    def submit(self, ticket: int, architecture: Architecture, to_beat: float) -> None:
        self._executor.submit(ticket, architecture, to_beat)

    def next_result(self) -> tuple[int, CandidateResult]:
        return self._executor.next_result()

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.__exit__(*error)


class CachingExecutor(Forwarding):
    """Takes the results of known candidates from a `Memory`, and lets a wrapped executor evaluate all others.

    The results of new evaluations are added to the memory.
    """

    def __init__(self, executor: Executor, memory: Memory) -> None:
        super().__init__(executor)
        self._memory = memory
        self._cached: list[tuple[int, CandidateResult]] = []

    def submit(self, ticket: int, architecture: Architecture, to_beat: float) -> None:
        known = self._memory.get(architecture)
        if known:
            self._cached.append((ticket, known))
        else:
            super().submit(ticket, architecture, to_beat)

    def next_result(self) -> tuple[int, CandidateResult]:
        if self._cached:
            return self._cached.pop(0)
        ticket, result = super().next_result()
        self._memory.add(result)
        return ticket, result


def evaluate_all(
    executor: Executor,
    architectures: Sequence[Architecture],
    to_beat: Callable[[Architecture], float] = lambda architecture: 0.0,
) -> Iterator[CandidateResult]:
    """Evaluate architectures, and yield their results in the order in which the evaluations end.

    `to_beat` returns the objective to beat (see `Executor.submit`). It is called when an architecture is submitted.
    """
    submitted = 0
    for done in range(len(architectures)):
        while submitted < len(architectures) and submitted - done < executor.capacity:
            executor.submit(submitted, architectures[submitted], to_beat(architectures[submitted]))
            submitted += 1
        yield executor.next_result()[1]


def evaluating_processor(settings: Search) -> str:
    """Return the processor on which a study's candidates are evaluated, `cpu` or `cuda`."""
    if settings.executor == "inline":
        return training_processor()
    return "cuda" if settings.worker_gpus else "cpu"


def executor_for(settings: Search, recipe: EvaluationRecipe) -> Executor:
    """Create the executor that `settings.executor` names."""
    if settings.executor == "inline":
        return InlineExecutor(recipe)
    from nas.search.ray_executor import RayExecutor

    return RayExecutor(recipe, settings)
