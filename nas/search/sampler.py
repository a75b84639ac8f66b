"""Optuna, behind four calls: open, ask, tell, results. Nothing else in the project knows it.

A trial is stored as integers (see `Encoding`), with its result in one attribute. What Optuna sees as values are
accuracy, to be raised, and the predicted latency on each device, to be lowered; its one constraint says how far the
nearest budget is missed. An architecture that was evaluated before, or that is predicted to miss every budget, is
told at once and costs no evaluation.
"""

from __future__ import annotations

import fcntl
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.errors import SearchError
from nas.evaluate import CandidateResult
from nas.search.costs import Costs
from nas.search.encoding import Encoding
from nas.search.guided import GuidedSampler
from nas.search.starts import designs
from nas.space import SearchSpace
from nas.study import Search

optuna.logging.set_verbosity(optuna.logging.WARNING)

_RESULT, _OUTCOME = "result", "outcome"
_CHILD_TRIES = 100
Outcome = Literal["evaluated", "repeated", "over_budget"]


@dataclass(frozen=True)
class Proposal:
    """A trial that waits for its result."""

    number: int
    architecture: Architecture


class Trials:
    """A search's trials in one journal file, and the sampler that proposes further ones."""

    def __init__(
        self, journal: Path, inputs: str, space: SearchSpace, costs: Costs, settings: Search, seed: int
    ) -> None:
        self.space, self.costs, self.seed = space, costs, seed
        self.encoding = Encoding(space)
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, size - 1) for name, size in self.encoding.sizes().items()
        }
        self._study = _open(journal, inputs, len(costs.profiles))
        self._known: dict[Architecture, CandidateResult] = {}
        self._evaluated: list[tuple[CandidateResult, tuple[float, ...]]] = []
        for result in self.results():
            self._learn(result)
        self._in_flight: dict[int, optuna.Trial] = {}
        self._asked: set[Architecture] = set()
        self._study.sampler = self._sampler(settings)
        self._recover()
        for architecture in self._start(settings):
            self._study.enqueue_trial(self.encoding.encode(architecture), skip_if_exists=True)

    def _start(self, settings: Search) -> list[Architecture]:
        """What is evaluated first."""
        rng = random.Random(f"population/{self.seed}")
        if settings.sampler == "random":
            return []
        if settings.sampler == "guided":
            return designs(self.space, self.costs, settings.population, rng)
        return self.costs.initial_population(self.space, settings.population, rng)

    def rest_on(self, weights: str) -> None:
        """Note the digest of the supernet's weights. Raises `SearchError` if results rest on other ones."""
        known = self._study.user_attrs.get("weights")
        if known not in (None, weights):
            raise SearchError(
                f"supernet: its weights changed since candidates were evaluated ({known}, now {weights}); put them "
                "back, or remove the search's storage to search anew"
            )
        if known is None:
            self._study.set_user_attr("weights", weights)

    def _sampler(self, settings: Search) -> BaseSampler:
        # Randomness depends on how many trials there are, so that a resumed search does not repeat itself.
        seed = random.Random(f"{self.seed}/{len(self._study.get_trials(deepcopy=False))}").getrandbits(31)
        if settings.sampler == "random":
            return RandomSampler(seed=seed)
        if settings.sampler == "guided":
            return GuidedSampler(self._distributions, self.encoding, self.costs, self._known, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if settings.sampler == "tpe":
                return TPESampler(seed=seed, multivariate=True, n_startup_trials=settings.population)
            return NSGAIISampler(seed=seed, population_size=settings.population, child_generation_strategy=self._child)

    def _child(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution], parents: list[FrozenTrial]
    ) -> dict[str, Any]:
        """A child of two parents by whole layers, mutated, preferably one that is worth an evaluation."""
        rng = random.Random(f"child/{self.seed}/{len(study.get_trials(deepcopy=False))}")
        pool = [self.encoding.decode(trial.params) for trial in parents]
        for _ in range(_CHILD_TRIES):
            child = self.space.crossover(rng.choice(pool), rng.choice(pool), rng)
            child = self.space.mutate(child, rng)
            if self._settled(child) is None:
                break
        encoded = self.encoding.encode(child)
        return {name: encoded[name] for name in search_space}

    def _settled(self, architecture: Architecture) -> Outcome | None:
        """Why an architecture needs no evaluation; None if it does."""
        if architecture in self._known:
            return "repeated"
        return "over_budget" if self.costs.violation(architecture) > 0.0 else None

    def _recover(self) -> None:
        """Finish the trials that a killed process left: told if evaluated, else given up and queued again."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _RESULT in trial.user_attrs:
                result = CandidateResult.from_json(trial.user_attrs[_RESULT])
                if result.exits and not trial.constraints:
                    live = optuna.Trial(self._study, trial._trial_id)
                    self._constrain(live, result.architecture, result.exits)
                self._study.tell(trial.number, self._values(result))
                self._learn(result)
                continue
            self._study.tell(trial.number, state=TrialState.FAIL)
            if trial.params.keys() == self._distributions.keys():
                self._study.enqueue_trial(trial.params)

    def ask(self) -> Proposal | None:
        """The next trial: a proposal to evaluate, or None if this one was settled at once."""
        trial = self._study.ask(self._distributions)
        architecture = self.encoding.decode(trial.params)
        twin = architecture in self._asked
        outcome = "repeated" if twin else self._settled(architecture) or "evaluated"
        trial.set_user_attr(_OUTCOME, outcome)
        if outcome == "over_budget" or not architecture.exit_threshold:
            self._constrain(trial, architecture, ())
        if twin:
            self._study.tell(trial, state=TrialState.FAIL)  # its value is not known yet
            return None
        if outcome == "evaluated":
            self._in_flight[trial.number] = trial
            self._asked.add(architecture)
            return Proposal(trial.number, architecture)
        known = self._known.get(architecture)
        if known and known.exits:
            self._constrain(trial, architecture, known.exits)
        self._study.tell(trial, self._values(known or CandidateResult(architecture, 0.0, 0, 0.0)))
        return None

    def tell(self, proposal: Proposal, result: CandidateResult) -> None:
        """Store the result of a proposal."""
        trial = self._in_flight.pop(proposal.number)
        self._asked.remove(proposal.architecture)
        trial.set_user_attr(_RESULT, result.to_json())
        if result.exits:
            self._constrain(trial, result.architecture, result.exits)
        self._study.tell(trial, self._values(result))
        self._learn(result)

    def rival(self, architecture: Architecture) -> float:
        """The best accuracy so far of what costs no more in any respect; below it no budget is served better."""
        own = self.costs.limited(architecture)
        able = (
            result.accuracy
            for result, cost in self._evaluated
            if all(known <= limit for known, limit in zip(cost, own, strict=True))
        )
        return max(able, default=0.0)

    def _learn(self, result: CandidateResult) -> None:
        self._known[result.architecture] = result
        if result.complete:
            self._evaluated.append((result, self.costs.limited(result.architecture, result.exits)))

    def _constrain(self, trial: optuna.Trial, architecture: Architecture, exits: Sequence[float]) -> None:
        """Say by how much the nearest budget is missed, once a trial: for early exits when it is known who leaves."""
        trial.set_constraint("budget", self.costs.violation(architecture, exits))

    def _values(self, result: CandidateResult) -> list[float]:
        return [result.accuracy, *self.costs.predict_ms(result.architecture, result.exits).values()]

    def results(self) -> list[CandidateResult]:
        """The results of all finished evaluations, in the order of their trials."""
        return [CandidateResult.from_json(trial.user_attrs[_RESULT]) for trial in self._finished()]

    def numbers(self) -> list[int]:
        """The numbers of the trials that the results are of."""
        return [trial.number for trial in self._finished()]

    def _finished(self) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in trials if _RESULT in trial.user_attrs]

    def importance(self) -> dict[str, float]:
        """What share of the differences in accuracy each integer of the encoding accounts for alone, largest first.

        By functional ANOVA (Hutter et al., ICML 2014), over all evaluated candidates; nothing where all are alike.
        """
        if len({result.accuracy for result in self.results()}) < 2:
            return {}

        def accuracy(trial: FrozenTrial) -> float:
            return trial.user_attrs[_RESULT]["accuracy"] if _RESULT in trial.user_attrs else math.nan  # left out

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = FanovaImportanceEvaluator(seed=self.seed)
            found = get_param_importances(self._study, evaluator=evaluator, target=accuracy, normalize=False)
        return {name: round(float(share), 4) for name, share in found.items()}

    def outcomes(self) -> dict[str, int]:
        """How many trials had which outcome; `lost` ones were in flight when their process was killed."""
        counts = {"evaluated": 0, "repeated": 0, "over_budget": 0, "lost": 0}
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
            outcome = trial.user_attrs.get(_OUTCOME, "evaluated")
            counts["lost" if trial.state == TrialState.FAIL and outcome == "evaluated" else outcome] += 1
        return counts


class _FlockLock:
    """Guards the journal by a lock that the system takes back from a killed process at once."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(f"{journal.name}.lock")
        self._held: list[IO[str]] = []

    def acquire(self) -> bool:
        handle = self._path.open("w")
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._held.append(handle)
        return True

    def release(self) -> None:
        self._held.pop().close()


def _open(journal: Path, inputs: str, devices: int) -> optuna.Study:
    """The journal's study; refused if it was made from other inputs."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    _drop_torn_line(journal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(JournalFileBackend(str(journal), cast(Any, _FlockLock(journal))))
    study = optuna.create_study(
        storage=storage,
        study_name="search",
        directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * devices],
        load_if_exists=True,
    )
    known = study.user_attrs.get("inputs")
    if known not in (None, inputs):
        raise SearchError(f"{journal}: belongs to other inputs ({known}, now {inputs}); remove it to search anew")
    if known is None:
        study.set_user_attr("inputs", inputs)
    return study


def _drop_torn_line(journal: Path) -> None:
    """Remove the end of a line that a killed process did not finish writing; readers would stumble over it."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    if content and not content.endswith(b"\n"):
        with journal.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
