"""Executors: where candidates are evaluated. They take architectures and give back results, nothing else."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from nas.architecture import Architecture
from nas.evaluate import CandidateResult, EvaluationRecipe, Memory
from nas.evaluate.shared import Key, most_alike, prefix_keys
from nas.model.precision import training_processor
from nas.study import Search

Waiting = tuple[int, Architecture, float]
"""Ticket, candidate, and the accuracy to beat."""
AHEAD = 8
"""Candidates that wait for a worker, so that one can be chosen which shares much with its last."""


def take_most_alike(waiting: list[Waiting], last: list[Key]) -> Waiting:
    """Take the candidate out of the first that wait which shares most with what a worker evaluated last."""
    return waiting.pop(most_alike([architecture for _, architecture, _ in waiting[:AHEAD]], last))


class Executor(Protocol):
    """Evaluates candidates, those that share layers with the last one first."""

    capacity: int
    """So many may be handed over before a result is asked for."""

    def submit(self, ticket: int, architecture: Architecture, rival: float) -> None:
        """Hand over a candidate under a number of the caller's, with the objective that it has to beat."""

    def next_result(self) -> tuple[int, CandidateResult]:
        """Wait for any submitted candidate: its ticket and its result.

        Raises `SearchError` if the supernet's weights are changed meanwhile.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InlineExecutor:
    """Evaluates in this process, when the result is asked for: a breakpoint works."""

    capacity = AHEAD

    def __init__(self, recipe: EvaluationRecipe) -> None:
        self._recipe = recipe
        self._evaluator = recipe.load()
        self._waiting: list[Waiting] = []
        self._last: list[Key] = []

    def submit(self, ticket: int, architecture: Architecture, rival: float) -> None:
        self._waiting.append((ticket, architecture, rival))

    def next_result(self) -> tuple[int, CandidateResult]:
        ticket, architecture, rival = take_most_alike(self._waiting, self._last)
        self._last = prefix_keys(architecture)
        result = self._evaluator.evaluate(architecture, rival)
        self._recipe.check()
        return ticket, result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.clear()


class Forwarding:
    """Another executor, as it is: for those that change one thing about it."""

    def __init__(self, executor: Executor) -> None:
        self.capacity, self._executor = executor.capacity, executor

    def submit(self, ticket: int, architecture: Architecture, rival: float) -> None:
        self._executor.submit(ticket, architecture, rival)

    def next_result(self) -> tuple[int, CandidateResult]:
        return self._executor.next_result()

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.__exit__(kind, error, trace)


class Remembering(Forwarding):
    """Answers at once what a memory holds, has another executor evaluate the rest, and remembers that."""

    def __init__(self, executor: Executor, memory: Memory) -> None:
        super().__init__(executor)
        self._memory = memory
        self._answered: list[tuple[int, CandidateResult]] = []

    def submit(self, ticket: int, architecture: Architecture, rival: float) -> None:
        known = self._memory.get(architecture)
        if known:
            self._answered.append((ticket, known))
        else:
            super().submit(ticket, architecture, rival)

    def next_result(self) -> tuple[int, CandidateResult]:
        if self._answered:
            return self._answered.pop(0)
        ticket, result = super().next_result()
        self._memory.add(result)
        return ticket, result


def evaluating_processor(settings: Search) -> str:
    """Where a study's candidates are evaluated: the workers' processor, or this process's."""
    if settings.executor == "inline":
        return training_processor()
    return "cuda" if settings.worker_gpus else "cpu"


def executor_for(settings: Search, recipe: EvaluationRecipe) -> Executor:
    """The executor that a study asks for."""
    if settings.executor == "inline":
        return InlineExecutor(recipe)
    from nas.search.ray_executor import RayExecutor

    return RayExecutor(recipe, settings)
