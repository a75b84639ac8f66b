"""Executors evaluate candidates, either in this process or on Ray workers (`ray_executor.py`).

An `Executor` evaluates the architectures that are submitted to it, and does not depend on the search. `executor_for`
creates the executor that a study names, and `CachingExecutor` adds a memory of earlier evaluations to an executor. The
search loop and the uniform baseline use executors.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from nas.architecture import Architecture
from nas.evaluate import CandidateResult, EvaluationRecipe, Memory
from nas.evaluate.shared import Key, longest_prefix, prefix_keys
from nas.model.precision import training_processor
from nas.study import Search

Waiting = tuple[int, Architecture, float]
"""A waiting candidate: the number that identifies it, its architecture, and the objective that it has to beat."""
AHEAD = 8
"""The number of waiting candidates among which the next candidate of a worker is chosen."""


def pop_longest_prefix(waiting: list[Waiting], previous_keys: list[Key]) -> Waiting:
    """Pop the waiting candidate that shares the longest layer prefix with the worker's previous candidate.

    Only the first `AHEAD` waiting candidates are considered. `previous_keys` holds the prefix keys of the worker's
    previous candidate.
    """
    return waiting.pop(longest_prefix([architecture for _, architecture, _ in waiting[:AHEAD]], previous_keys))


class Executor(Protocol):
    """Evaluates candidates, if possible in an order in which successive candidates share their first layers."""

    capacity: int
    """The maximum number of submitted candidates whose results have not been returned yet."""

    def submit(self, ticket: int, architecture: Architecture, to_beat: float) -> None:
        """Queue a candidate under `ticket`, a number that the caller chooses to identify the result.

        The evaluation may stop as soon as the candidate is very unlikely to reach the objective `to_beat`.
        """

    def next_result(self) -> tuple[int, CandidateResult]:
        """Wait until any submitted candidate has been evaluated, and return its ticket and its result.

        Raises `SearchError` if the supernet's weights have changed since the search started.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InlineExecutor:
    """Evaluates candidates in this process when their results are requested, so that breakpoints work."""

    capacity = AHEAD

    def __init__(self, recipe: EvaluationRecipe) -> None:
        self._recipe = recipe
        self._evaluator = recipe.load()
        self._waiting: list[Waiting] = []
        self._previous_keys: list[Key] = []

    def submit(self, ticket: int, architecture: Architecture, to_beat: float) -> None:
        self._waiting.append((ticket, architecture, to_beat))

    def next_result(self) -> tuple[int, CandidateResult]:
        ticket, architecture, to_beat = pop_longest_prefix(self._waiting, self._previous_keys)
        self._previous_keys = prefix_keys(architecture)
        result = self._evaluator.evaluate(architecture, to_beat)
        self._recipe.check()
        return ticket, result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.clear()


class Forwarding:
    """Forwards all calls to a wrapped executor. Subclasses change one aspect of the wrapped executor."""

    def __init__(self, executor: Executor) -> None:
        self.capacity, self._executor = executor.capacity, executor

    def submit(self, ticket: int, architecture: Architecture, to_beat: float) -> None:
        self._executor.submit(ticket, architecture, to_beat)

    def next_result(self) -> tuple[int, CandidateResult]:
        return self._executor.next_result()

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.__exit__(kind, error, trace)


class CachingExecutor(Forwarding):
    """Returns known results from a memory. A wrapped executor evaluates all other candidates.

    The results of these evaluations are added to the memory.
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


def evaluating_processor(settings: Search) -> str:
    """Return the processor on which a study's candidates are evaluated, `cpu` or `cuda`."""
    if settings.executor == "inline":
        return training_processor()
    return "cuda" if settings.worker_gpus else "cpu"


def executor_for(settings: Search, recipe: EvaluationRecipe) -> Executor:
    """Return the executor that a study's search settings name."""
    if settings.executor == "inline":
        return InlineExecutor(recipe)
    from nas.search.ray_executor import RayExecutor

    return RayExecutor(recipe, settings)
