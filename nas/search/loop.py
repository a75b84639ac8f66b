"""The search loop: ask, evaluate, tell, until enough candidates were evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from nas.evaluate import CandidateResult
from nas.progress import Laps, log, say, track
from nas.search.executors import Executor
from nas.search.sampler import Proposal, Trials
from nas.search.view import View

_ASKS_PER_EVALUATION = 200
"""More proposals in a row without one to evaluate mean that the sampler has run dry."""
_SECONDS_BETWEEN_LOOKS = 0.2
"""How often is looked whether other drivers have finished what is left."""


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
    """Evaluate until the trials hold `evaluations` results, together with other drivers of the same storage.

    Goes on from what they hold already, and with what another driver left when it died. `laps` gets the seconds in
    which workers were started, the driver worked, and evaluations were waited for.
    """
    laps, view = Laps() if laps is None else laps, View(trials, [result for _, result in trials.news()])
    if trials.evaluated < evaluations:
        with trials, make_executor() as executor, track("Searching", evaluations, trials.evaluated, view) as progress:
            laps.end("start")
            in_flight: dict[int, Proposal] = {}
            standing: tuple[int, ...] = ()
            while trials.evaluated < evaluations:
                if standing != _standing(in_flight, trials):  # else there is still nothing to ask for
                    _fill(in_flight, trials, executor, evaluations)
                    standing = _standing(in_flight, trials)
                laps.end("driver")
                if in_flight:
                    number, result = executor.next_result()
                    laps.end("evaluation")
                    trials.tell(in_flight.pop(number), result)
                elif trials.in_flight:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                    laps.end("evaluation")
                    trials.catch_up()
                else:
                    say(f"{_ASKS_PER_EVALUATION} proposals in a row were repeated or over every budget: ending early")
                    break
                for number, result in trials.news():
                    view.add(result)
                    predicted = trials.costs.predict_ms(result.architecture, result.exits)
                    log("evaluated", trial=number, done=view.done, **_about(result), predicted_ms=dict(predicted))
                progress(trials.evaluated, view.note())
    state = SearchState.of(trials)
    log("searched", evaluations=trials.evaluated, outcomes=state.outcomes)
    return state


def _fill(in_flight: dict[int, Proposal], trials: Trials, executor: Executor, evaluations: int) -> None:
    """Hand over as many candidates as the executor takes and are wanted; fewer if the sampler has run dry."""
    while len(in_flight) < executor.capacity:
        proposal = _next_proposal(trials, evaluations)
        if proposal is None:
            break
        in_flight[proposal.number] = proposal
        executor.submit(proposal.number, proposal.architecture, trials.rival(proposal.architecture))


def _standing(in_flight: dict[int, Proposal], trials: Trials) -> tuple[int, ...]:
    """All that decides whether something can be proposed: where nothing was, it is asked again when this changes."""
    return len(in_flight), trials.evaluated, trials.in_flight, trials.outcomes()["lost"]


def _about(result: CandidateResult) -> dict[str, object]:
    """A result in a line of the log; the storage holds all of it."""
    return {
        "architecture": result.architecture.describe(),
        "accuracy": result.accuracy,
        "complete": result.complete,
        "seconds": result.seconds,
    }


def _next_proposal(trials: Trials, evaluations: int) -> Proposal | None:
    """The next one that is worth an evaluation, or None if there are enough or the sampler has run dry."""
    for _ in range(_ASKS_PER_EVALUATION):
        if not trials.has_room(evaluations):
            return None
        proposal = trials.ask(evaluations)
        if proposal is not None:
            return proposal
    return None
