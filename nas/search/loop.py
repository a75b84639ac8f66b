"""The search loop: propose candidates, evaluate them and store the results, until there are enough results.

`search` connects `Trials` (`sampler.py`) with an executor (`executors.py`) and the live view (`view.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from nas.evaluate import CandidateResult
from nas.progress import Stopwatch, log, say, track
from nas.search.executors import Executor
from nas.search.sampler import Proposal, Trials
from nas.search.view import View

_PROPOSALS_UNTIL_EXHAUSTED = 200
"""The sampler is considered exhausted after this many proposals in a row that need no evaluation."""
_POLL_INTERVAL_S = 0.2
"""The seconds between two reads of the storage while this driver only waits for results of other drivers."""


@dataclass(frozen=True)
class SearchState:
    """The results of a search so far."""

    results: list[CandidateResult]
    numbers: list[int]
    """The trial numbers of the results, in the order of `results`."""
    outcomes: dict[str, int]
    """The number of trials with each outcome, keyed by outcome; see `Trials.outcomes`."""

    @classmethod
    def of(cls, trials: Trials) -> SearchState:
        """Return the current state of the search that `trials` belongs to."""
        return cls(trials.results(), trials.numbers(), trials.outcomes())


def search(
    trials: Trials, evaluations: int, make_executor: Callable[[], Executor], stopwatch: Stopwatch | None = None
) -> SearchState:
    """Evaluate candidates until `trials` contains `evaluations` results, and return all results.

    Results that `trials` already contains count towards this number, so that an interrupted search resumes. The search
    ends early if the sampler proposes no more candidates that need an evaluation. Several drivers (processes that run
    the search) may share a storage. If a driver dies, other drivers evaluate its unfinished candidates. `stopwatch`
    measures the time of three activities: starting workers (`start`), proposing and storing candidates (`driver`), and
    waiting for evaluations (`evaluation`).
    """
    stopwatch = Stopwatch() if stopwatch is None else stopwatch
    view = View(trials, [result for _, result in trials.news()])
    if trials.evaluated < evaluations:
        with trials, make_executor() as executor, track("Searching", evaluations, trials.evaluated, view) as progress:
            stopwatch.end("start")
            in_flight: dict[int, Proposal] = {}
            counts: tuple[int, ...] = ()
            while trials.evaluated < evaluations:
                if counts != _proposal_counts(in_flight, trials):  # otherwise there is still nothing to propose
                    _submit_candidates(in_flight, trials, executor, evaluations)
                    counts = _proposal_counts(in_flight, trials)
                stopwatch.end("driver")
                if in_flight:
                    number, result = executor.next_result()
                    stopwatch.end("evaluation")
                    trials.tell(in_flight.pop(number), result)
                elif trials.in_flight:
                    time.sleep(_POLL_INTERVAL_S)
                    stopwatch.end("evaluation")
                    trials.catch_up()
                else:
                    say(
                        f"search: ending early, because each of {_PROPOSALS_UNTIL_EXHAUSTED} proposals in a row "
                        "repeated an earlier one or was predicted to violate every budget"
                    )
                    break
                for number, result in trials.news():
                    view.add(result)
                    log(
                        "evaluated",  # only a summary; the storage contains the complete result
                        trial=number,
                        done=view.done,
                        architecture=result.architecture.describe(),
                        accuracy=result.accuracy,
                        complete=result.complete,
                        seconds=result.seconds,
                        predicted_ms=trials.costs.predict_ms(result.architecture, result.exits),
                    )
                progress(trials.evaluated, view.note())
    state = SearchState.of(trials)
    log("searched", evaluations=trials.evaluated, outcomes=state.outcomes)
    return state


def _submit_candidates(in_flight: dict[int, Proposal], trials: Trials, executor: Executor, evaluations: int) -> None:
    """Submit candidates until the executor is full, enough candidates are in flight, or the sampler is exhausted."""
    while len(in_flight) < executor.capacity:
        proposal = _next_proposal(trials, evaluations)
        if proposal is None:
            break
        in_flight[proposal.number] = proposal
        executor.submit(proposal.number, proposal.architecture, trials.to_beat(proposal.architecture))


def _proposal_counts(in_flight: dict[int, Proposal], trials: Trials) -> tuple[int, ...]:
    """Return the counts that determine whether another candidate can be proposed.

    If no candidate could be proposed, the loop tries again only after one of these counts has changed.
    """
    return len(in_flight), trials.evaluated, trials.in_flight, trials.outcomes()["lost"]


def _next_proposal(trials: Trials, evaluations: int) -> Proposal | None:
    """Return the next proposal that needs an evaluation.

    Return None if enough candidates are evaluated or in flight, or if the sampler is exhausted.
    """
    for _ in range(_PROPOSALS_UNTIL_EXHAUSTED):
        if not trials.has_room(evaluations):
            return None
        proposal = trials.ask(evaluations)
        if proposal is not None:
            return proposal
    return None
