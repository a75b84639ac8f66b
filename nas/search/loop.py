"""The search loop: ask, evaluate, tell, until enough candidates were evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nas.evaluate import CandidateResult
from nas.progress import say, track
from nas.search.executors import Executor
from nas.search.sampler import Proposal, Trials

_ASKS_PER_EVALUATION = 200
"""More proposals in a row without one to evaluate mean that the sampler has run dry."""


@dataclass(frozen=True)
class SearchState:
    """What a search has found."""

    results: list[CandidateResult]
    numbers: list[int]
    """The trials' numbers, one for each result."""
    outcomes: dict[str, int]

    @classmethod
    def of(cls, trials: Trials) -> SearchState:
        """What the trials hold."""
        return cls(trials.results(), trials.numbers(), trials.outcomes())


def search(trials: Trials, evaluations: int, make_executor: Callable[[], Executor]) -> SearchState:
    """Evaluate until the trials hold `evaluations` results. Goes on from what they hold already."""
    done = len(trials.results())
    if done < evaluations:
        with make_executor() as executor, track("Searching", evaluations) as progress:
            in_flight: dict[int, Proposal] = {}
            best = 0.0
            while done < evaluations:
                while len(in_flight) < executor.capacity and done + len(in_flight) < evaluations:
                    proposal = _next_proposal(trials)
                    if proposal is None:
                        break
                    in_flight[proposal.number] = proposal
                    executor.submit(proposal.number, proposal.architecture, trials.rival(proposal.architecture))
                if not in_flight:
                    say(f"{_ASKS_PER_EVALUATION} proposals in a row were repeated or over every budget: ending early")
                    break
                number, result = executor.next_result()
                trials.tell(in_flight.pop(number), result)
                done += 1
                best = max(best, result.accuracy)
                progress(done, f"best {best:.4f}")
    return SearchState.of(trials)


def _next_proposal(trials: Trials) -> Proposal | None:
    """The next one that is worth an evaluation, or None if the sampler has run dry."""
    for _ in range(_ASKS_PER_EVALUATION):
        proposal = trials.ask()
        if proposal is not None:
            return proposal
    return None
