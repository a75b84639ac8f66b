"""The search loop: ask, evaluate, tell, until enough candidates were evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from nas.evaluate import CandidateResult
from nas.progress import say, track
from nas.search.executors import Executor
from nas.search.sampler import Proposal, Trials

_ASKS_PER_EVALUATION = 200
"""More proposals in a row without one to evaluate mean that the sampler has run dry."""
_SECONDS_BETWEEN_LOOKS = 0.2
"""How often is looked whether other drivers have finished what is left."""


@dataclass(frozen=True)
class SearchState:
    """What a search has found."""

    results: list[CandidateResult]
    outcomes: dict[str, int]

    @classmethod
    def of(cls, trials: Trials) -> SearchState:
        """What the trials hold."""
        return cls(trials.results(), trials.outcomes())


def search(trials: Trials, evaluations: int, make_executor: Callable[[], Executor]) -> SearchState:
    """Evaluate until the trials hold `evaluations` results, together with other drivers of the same storage.

    Goes on from what they hold already, and with what another driver left when it died.
    """
    if trials.evaluated < evaluations:
        with trials, make_executor() as executor, track("Searching", evaluations) as progress:
            in_flight: dict[int, Proposal] = {}
            best = 0.0
            while trials.evaluated < evaluations:
                while len(in_flight) < executor.capacity:
                    proposal = _next_proposal(trials, evaluations)
                    if proposal is None:
                        break
                    in_flight[proposal.number] = proposal
                    executor.submit(proposal.number, proposal.architecture, trials.rival(proposal.architecture))
                if in_flight:
                    number, result = executor.next_result()
                    trials.tell(in_flight.pop(number), result)
                    best = max(best, result.accuracy)
                elif trials.in_flight:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                    trials.catch_up()
                else:
                    say(f"{_ASKS_PER_EVALUATION} proposals in a row were repeated or over every budget: ending early")
                    break
                progress(trials.evaluated, f"best {best:.4f}")
    return SearchState.of(trials)


def _next_proposal(trials: Trials, evaluations: int) -> Proposal | None:
    """The next one that is worth an evaluation, or None if there are enough or the sampler has run dry."""
    for _ in range(_ASKS_PER_EVALUATION):
        if not trials.has_room(evaluations):
            return None
        proposal = trials.ask(evaluations)
        if proposal is not None:
            return proposal
    return None
