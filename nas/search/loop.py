"""The search loop: ask, evaluate, tell, until enough candidates were evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nas.evaluate import CandidateResult
from nas.progress import Laps, log, say, track
from nas.search.executors import Executor
from nas.search.sampler import Proposal, Trials
from nas.search.view import View

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


def search(
    trials: Trials, evaluations: int, make_executor: Callable[[], Executor], laps: Laps | None = None
) -> SearchState:
    """Evaluate until the trials hold `evaluations` results. Goes on from what they hold already.

    `laps` gets the seconds in which workers were started, the driver worked, and evaluations were waited for.
    """
    laps, before = Laps() if laps is None else laps, trials.results()
    done, view = len(before), View(trials, before)
    if done < evaluations:
        with make_executor() as executor, track("Searching", evaluations, done, view) as progress:
            laps.end("start")
            in_flight: dict[int, Proposal] = {}
            while done < evaluations:
                _fill(in_flight, trials, executor, evaluations - done)
                if not in_flight:
                    say(f"{_ASKS_PER_EVALUATION} proposals in a row were repeated or over every budget: ending early")
                    break
                laps.end("driver")
                number, result = executor.next_result()
                laps.end("evaluation")
                trials.tell(in_flight.pop(number), result)
                done += 1
                view.add(result)
                log("evaluated", trial=number, done=done, **_about(result))
                progress(done, view.note())
    state = SearchState.of(trials)
    log("searched", evaluations=done, outcomes=state.outcomes)
    return state


def _fill(in_flight: dict[int, Proposal], trials: Trials, executor: Executor, wanted: int) -> None:
    """Hand over as many candidates as the executor takes and are wanted; fewer if the sampler has run dry."""
    while len(in_flight) < min(executor.capacity, wanted):
        proposal = _next_proposal(trials)
        if proposal is None:
            break
        in_flight[proposal.number] = proposal
        executor.submit(proposal.number, proposal.architecture, trials.rival(proposal.architecture))


def _about(result: CandidateResult) -> dict[str, object]:
    """A result in a line of the log; the storage holds all of it."""
    return {
        "architecture": result.architecture.describe(),
        "accuracy": result.accuracy,
        "complete": result.complete,
        "seconds": result.seconds,
    }


def _next_proposal(trials: Trials) -> Proposal | None:
    """The next one that is worth an evaluation, or None if the sampler has run dry."""
    for _ in range(_ASKS_PER_EVALUATION):
        proposal = trials.ask()
        if proposal is not None:
            return proposal
    return None
