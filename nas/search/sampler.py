"""The trials of a search: `Trials` proposes new trials with an Optuna sampler, and stores the results.

Only `nas.search` uses Optuna. A trial stores its architecture as integers (see `Encoding`), and its result as one
attribute. The values of a trial are the objective, which Optuna maximises, and the predicted latency on each device,
which Optuna minimises. The only constraint of a trial is the value of `Costs.least_violation`. If a proposal repeats an
earlier one, or if it is predicted to violate every budget, the trial is finished without an evaluation.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.architecture import Architecture
from nas.evaluate import CandidateResult
from nas.search.costs import Costs, weakly_dominates
from nas.search.encoding import Encoding
from nas.search.generations import Generations
from nas.search.starts import designs
from nas.search.storage import Storage
from nas.space import SearchSpace
from nas.study import Search

_RESULT, _OUTCOME = "result", "outcome"
_CHILD_TRIES = 100
Outcome = Literal["evaluated", "repeated", "over_budget"]


@dataclass(frozen=True)
class Proposal:
    """A trial that needs an evaluation: its number and its architecture."""

    number: int
    architecture: Architecture


class Trials:
    """The trials of a search, and the sampler that proposes new trials.

    The main methods are `ask`, `tell` and `results`. The sampler reads an in-memory copy of the stored trials. Storing
    a proposal takes one write to the storage, and storing its result takes two. Drivers (processes that run the search)
    that share a storage use each other's results, and do not evaluate the same candidate twice.
    """

    def __init__(self, storage: Storage, space: SearchSpace, costs: Costs, settings: Search, seed: int) -> None:
        self.space, self.costs, self.seed = space, costs, seed
        self.encoding = Encoding(space)
        self._storage, self._settings = storage, settings
        self._violation = lru_cache(maxsize=_CHILD_TRIES)(costs.least_violation)
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, size - 1) for name, size in self.encoding.sizes().items()
        }
        self._known: dict[Architecture, CandidateResult] = {}
        self._results: dict[int, CandidateResult] = {}
        self._front: list[tuple[float, tuple[float, ...]]] = []
        self._running: dict[int, Architecture] = {}
        self._running_counts = Counter[Architecture]()
        """The number of running trials with each architecture."""
        self._new_results: list[tuple[int, CandidateResult]] = []
        self._outcomes = dict.fromkeys(("evaluated", "repeated", "over_budget", "lost"), 0)
        self._lost: list[Architecture] = []
        self._own_trials: dict[int, optuna.Trial] = {}
        self._uncopied: list[FrozenTrial] = []
        self.catch_up()

    @cached_property
    def _study(self) -> optuna.Study:
        """An in-memory copy of the stored trials, which the sampler reads."""
        directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * len(self.costs.profiles)]
        return optuna.create_study(directions=directions, sampler=self._sampler())

    @cached_property
    def _initial_candidates(self) -> list[Architecture]:
        """The architectures to propose before the sampler is used, in this order."""
        rng, settings = random.Random(f"population/{self.seed}"), self._settings
        if settings.sampler == "random":
            return []
        if settings.sampler == "guided":
            return designs(self.space, self.costs, settings.population, rng)
        return self.costs.initial_population(self.space, settings.population, rng)

    def begin_with(self, architectures: Sequence[Architecture]) -> None:
        """Insert `architectures` before the initial candidates, which are proposed before the sampler is used."""
        self._initial_candidates[:0] = architectures

    def record_dependency(self, name: str, digest: str) -> None:
        """Record the digest of an input on which results depend, such as the supernet's weights.

        Raises `SearchError` if a different digest was recorded under the same `name` before.
        """
        self._storage.record_dependency(name, digest)

    def _sampler(self) -> BaseSampler:
        settings = self._settings
        # The seed depends on the number of trials, so that a resumed search does not repeat its proposals.
        seed = random.Random(f"{self.seed}/{self._storage.count}").getrandbits(31)
        if settings.sampler == "random":
            return RandomSampler(seed=seed)
        if settings.sampler == "guided":
            from nas.search.guided import GuidedSampler  # imports scikit-learn, which workers do not need

            return GuidedSampler(self._distributions, self.encoding, self.costs, self._known, self._running, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if settings.sampler == "tpe":
                return TPESampler(seed=seed, multivariate=True, n_startup_trials=settings.population)
            return Generations(self._distributions, settings.population, self._child, seed)

    def _child(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution], parents: list[FrozenTrial]
    ) -> dict[str, Any]:
        """Return the parameters of a new trial: a mutated crossover of two random parents.

        Up to `_CHILD_TRIES` crossovers are generated, until one of them needs an evaluation.
        """
        rng = random.Random(f"child/{self.seed}/{self._storage.count}")
        for _ in range(_CHILD_TRIES):
            first, second = (self.encoding.decode(rng.choice(parents).params) for _ in range(2))
            child = self.space.mutate(self.space.crossover(first, second, rng), rng)
            if self._outcome_without_evaluation(child) is None:
                break
        encoded = self.encoding.encode(child)
        return {name: encoded[name] for name in search_space}

    def _outcome_without_evaluation(self, architecture: Architecture) -> Outcome | None:
        """Return why an architecture needs no evaluation (`repeated` or `over_budget`), or None if it needs one."""
        if architecture in self._known or self._running_counts[architecture]:
            return "repeated"
        return "over_budget" if self._violation(architecture, ()) > 0.0 else None

    def catch_up(self) -> None:
        """Read the trials that any driver has started or finished since the last call.

        A trial that a dead driver left unfinished is finished if its result is stored. Otherwise, it is given up.
        """
        self._update_from(self._storage.changes())
        abandoned = self._storage.abandoned()
        for trial in abandoned:
            if _RESULT in trial.user_attrs:  # its driver died between the two writes of a result
                result = CandidateResult.from_json(trial.user_attrs[_RESULT])
                self._finish(trial.number, result, bool(result.exits) and not trial.constraints)
            else:
                self._storage.give_up(trial.number)
        if abandoned:
            self._update_from(self._storage.changes())

    def _update_from(self, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                if trial.number not in self._running and trial.params.keys() == self._distributions.keys():
                    self._running[trial.number] = self.encoding.decode(trial.params)
                    self._running_counts[self._running[trial.number]] += 1
            elif trial.state.is_finished():
                self._update_from_finished(trial)

    def _update_from_finished(self, trial: FrozenTrial) -> None:
        if running := self._running.pop(trial.number, None):
            self._running_counts[running] -= 1
        self._uncopied.append(trial)
        outcome = trial.user_attrs.get(_OUTCOME, "evaluated")
        if trial.state == TrialState.FAIL and outcome == "evaluated":
            outcome = "lost"
            if trial.params.keys() == self._distributions.keys():
                self._lost.append(self.encoding.decode(trial.params))
        self._outcomes[outcome] += 1
        if trial.state == TrialState.COMPLETE and _RESULT in trial.user_attrs:
            result = CandidateResult.from_json(trial.user_attrs[_RESULT])
            self._results[trial.number] = result
            self._new_results.append((trial.number, result))
            self._known[result.architecture] = result
            if result.complete:
                self._update_front(result.objective, self.costs.cost_vector(result.architecture, result.exits))

    def _update_front(self, accuracy: float, cost: tuple[float, ...]) -> None:
        """Add a result to the Pareto front that `to_beat` reads, and remove the results that the new result dominates.

        Does nothing if a result on the front dominates the new result.
        """
        if not any(best >= accuracy and weakly_dominates(best_cost, cost) for best, best_cost in self._front):
            kept = [
                (best, best_cost)
                for best, best_cost in self._front
                if best > accuracy or not weakly_dominates(cost, best_cost)
            ]
            self._front = [*kept, (accuracy, cost)]

    def has_room(self, evaluations: int) -> bool:
        """Whether fewer than `evaluations` candidates of all drivers have been evaluated or are in flight."""
        return self.evaluated + len(self._running) < evaluations

    @property
    def evaluated(self) -> int:
        """The number of finished evaluations, including those of other drivers."""
        return len(self._results)

    @property
    def in_flight(self) -> int:
        """The number of candidates that are being evaluated, including those of other drivers."""
        return len(self._running)

    def ask(self, evaluations: int) -> Proposal | None:
        """Create and store a trial. Return it as a `Proposal` if it must be evaluated, otherwise return None.

        A trial is not evaluated if its architecture was proposed before (by any driver), if the architecture is
        predicted to violate every budget, or if there would be more than `evaluations` evaluations.
        """
        trial = self._propose()
        architecture = self.encoding.decode(trial.params)
        outcome = self._outcome_without_evaluation(architecture)
        number = self._storage.add(self._trial_to_store(trial, architecture, outcome))
        self._own_trials[number] = trial
        self.catch_up()
        if outcome:
            return None
        if reason := self._reason_to_give_up(number, architecture, evaluations):
            self._storage.give_up(number, **({_OUTCOME: reason} if reason == "repeated" else {}))
            self.catch_up()
            return None
        return Proposal(number, architecture)

    def _reason_to_give_up(
        self, number: int, architecture: Architecture, evaluations: int
    ) -> Literal["repeated", "surplus"] | None:
        """Return why a stored proposal must not be evaluated, or None if it must be evaluated.

        The reason is `repeated` if another driver is evaluating the same architecture or has evaluated it. The reason
        is `surplus` if the number of results, plus the number of running trials with a lower number than this one, is
        at least `evaluations`.
        """
        earlier = [other for other in self._running if other < number]
        if architecture in self._known:
            return "repeated"
        if self._running_counts[architecture] > 1 and any(self._running[other] == architecture for other in earlier):
            return "repeated"
        return "surplus" if self.evaluated + len(earlier) >= evaluations else None

    def _propose(self) -> optuna.Trial:
        """Create a trial in the in-memory copy, and return it.

        The candidates of lost trials come first, then the initial candidates, and then the proposals of the sampler.
        """
        for trial in self._uncopied:
            self._copy_to_study(trial)
        self._uncopied.clear()
        for queue in (self._lost, self._initial_candidates):
            while queue:
                architecture = queue.pop(0)
                if self._outcome_without_evaluation(architecture) is None:
                    self._study.enqueue_trial(self.encoding.encode(architecture))
                    queued = self._study.ask(self._distributions)
                    if self._settings.sampler == "nsga2":
                        _ = queued.relative_params  # reading them makes Optuna assign a generation
                    return queued
        return self._study.ask(self._distributions)

    def _copy_to_study(self, trial: FrozenTrial) -> None:
        """Add a finished trial to the in-memory copy."""
        own_trial = self._own_trials.pop(trial.number, None)
        if own_trial:
            for key, value in trial.constraints.items():
                own_trial.set_constraint(key, value)
            self._study.tell(own_trial, trial.values, trial.state)
        elif trial.state == TrialState.COMPLETE:
            fields = {"values": trial.values, "params": trial.params, "distributions": trial.distributions}
            self._study.add_trial(create_trial(**fields, system_attrs=trial.system_attrs))

    def _trial_to_store(self, trial: optuna.Trial, architecture: Architecture, outcome: Outcome | None) -> FrozenTrial:
        """Return the trial to store for a proposal: running if it needs an evaluation, otherwise finished."""
        known = self._known.get(architecture)
        exits = known.exits if known else ()
        constraints = {}
        if outcome == "over_budget" or exits or not architecture.exit_threshold:
            constraints["budget"] = self._violation(architecture, exits)
        state_or_values: dict[str, Any] = {"state": TrialState.RUNNING}
        if outcome == "over_budget" or known:
            state_or_values = {"values": self._values(known or CandidateResult(architecture, 0.0, 0, 0.0))}
        elif outcome:  # the same architecture is in flight, and its value is not known yet
            state_or_values["state"] = TrialState.FAIL
        return create_trial(
            **state_or_values,
            params=trial.params,
            distributions=self._distributions,
            user_attrs={
                _OUTCOME: outcome or "evaluated",
                "architecture": architecture.describe(),
                "digest": architecture.digest,
            },
            system_attrs=dict(self._study.get_trials(deepcopy=False)[trial.number].system_attrs),
            constraints=constraints,
        )

    def tell(self, proposal: Proposal, result: CandidateResult) -> None:
        """Store the result of a proposal."""
        self._finish(proposal.number, result, bool(result.exits))
        self.catch_up()

    def _finish(self, number: int, result: CandidateResult, constrain: bool) -> None:
        """Finish the trial `number`, and store its result.

        If `constrain` is set, the constraint of the trial is stored too. This is needed for networks with early exits,
        because their costs are known only after the evaluation.
        """
        violation = {"budget": self._violation(result.architecture, result.exits)} if constrain else {}
        attributes = {_RESULT: result.to_json()}
        trial = create_trial(state=TrialState.RUNNING, user_attrs=attributes, constraints=violation)
        self._storage.finish(number, self._values(result), trial)

    def to_beat(self, architecture: Architecture) -> float:
        """Return the highest objective among results that cost at most as much as `architecture`; 0 if there are none.

        If the architecture does not reach this objective, it is useless for every budget, and its evaluation can be
        stopped.
        """
        own_cost = self.costs.cost_vector(architecture)
        return max((accuracy for accuracy, cost in self._front if weakly_dominates(cost, own_cost)), default=0.0)

    def _values(self, result: CandidateResult) -> list[float]:
        return [result.objective, *self.costs.predict_ms(result.architecture, result.exits).values()]

    def news(self) -> list[tuple[int, CandidateResult]]:
        """Return (trial number, result) pairs of the evaluations that any driver has finished since the last call."""
        new_results, self._new_results = self._new_results, []
        return new_results

    def results(self) -> list[CandidateResult]:
        """Return the results of all finished evaluations, in ascending order of trial number."""
        return [result for _, result in sorted(self._results.items())]

    def numbers(self) -> list[int]:
        """Return the trial numbers of the results, in the order of `results`."""
        return sorted(self._results)

    def importance(self) -> dict[str, float]:
        """Return the share of the objective's variance that each integer variable of the encoding explains by itself.

        The shares are keyed by variable name, in descending order. They are computed from all evaluated candidates by
        functional ANOVA (Hutter et al., ICML 2014). The result is empty if all candidates have the same objective.
        """
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        results = self.results()
        if len({result.objective for result in results}) < 2:
            return {}
        study = optuna.create_study(direction=StudyDirection.MAXIMIZE)
        for result in results:
            values = self.encoding.encode(result.architecture)
            study.add_trial(create_trial(value=result.objective, params=values, distributions=self._distributions))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = FanovaImportanceEvaluator(seed=self.seed)
            importances = get_param_importances(study, evaluator=evaluator, normalize=False)
        return {name: round(float(share), 4) for name, share in importances.items()}

    def outcomes(self) -> dict[str, int]:
        """Return the number of trials with each outcome: `evaluated`, `repeated`, `over_budget` or `lost`.

        Lost trials were given up without a result, in most cases because their driver died.
        """
        return dict(self._outcomes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._storage.leave()
