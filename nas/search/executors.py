"""Executors: where candidates are evaluated. They take architectures and give back results, nothing else."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Protocol, Self

from nas.architecture import Architecture
from nas.evaluate import CandidateResult, EvaluationRecipe
from nas.study import Search


class Executor(Protocol):
    """Evaluates up to `workers` candidates at a time."""

    workers: int

    def submit(self, ticket: int, architecture: Architecture) -> None:
        """Hand over a candidate under a number of the caller's."""

    def next_result(self) -> tuple[int, CandidateResult]:
        """Wait for any submitted candidate: its ticket and its result."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InlineExecutor:
    """Evaluates in this process, when the result is asked for: a breakpoint works."""

    workers = 1

    def __init__(self, recipe: EvaluationRecipe) -> None:
        self._evaluator = recipe.load()
        self._waiting: deque[tuple[int, Architecture]] = deque()

    def submit(self, ticket: int, architecture: Architecture) -> None:
        self._waiting.append((ticket, architecture))

    def next_result(self) -> tuple[int, CandidateResult]:
        ticket, architecture = self._waiting.popleft()
        return ticket, self._evaluator.evaluate(architecture)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.clear()


def executor_for(settings: Search, recipe: EvaluationRecipe) -> Executor:
    """The executor that a study asks for."""
    if settings.executor == "inline":
        return InlineExecutor(recipe)
    from nas.search.ray_executor import RayExecutor

    return RayExecutor(recipe, settings.workers)
