"""A faster version of Optuna's NSGA-II sampler, which does not scan all earlier trials to generate a new one.

`Trials` uses `Generations` if a study sets `search.sampler = "nsga2"`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, TrialState

Child = Callable[[Study, dict[str, BaseDistribution], list[FrozenTrial]], dict[str, Any]]


class Generations(NSGAIISampler):
    """An NSGA-II sampler that caches the members and the parents of each generation.

    Parents are selected as in Optuna's own sampler. All trials have the same `distributions`, keyed by parameter name.
    `population` is the number of trials per generation. `child` is a function that returns the parameters of a new
    trial, given the parent trials.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], population: int, child: Child, seed: int) -> None:
        super().__init__(population_size=population, child_generation_strategy=child, seed=seed)
        self._distributions = {
            name: distribution for name, distribution in distributions.items() if not distribution.single()
        }
        self._population = population
        self._members: defaultdict[int, list[FrozenTrial]] = defaultdict(list)
        self._parents: list[list[FrozenTrial]] = [[]]
        self._unfinished: list[int] = []
        self._seen_count = 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        self._update_members(study)
        latest = max(self._members, default=0)
        generation = latest + (len(self._members[latest]) >= self._population)
        study._storage.set_trial_system_attr(trial._trial_id, self._get_generation_key(), generation)
        return generation

    def _update_members(self, study: Study) -> None:
        """Update the members of each generation with the trials that were completed since the last call."""
        trials = study.get_trials(deepcopy=False)
        new_or_unfinished = [*(trials[number] for number in self._unfinished), *trials[self._seen_count :]]
        self._unfinished = [trial.number for trial in new_or_unfinished if not trial.state.is_finished()]
        self._seen_count = len(trials)
        for trial in new_or_unfinished:
            generation = trial.system_attrs.get(self._get_generation_key())
            if trial.state == TrialState.COMPLETE and generation is not None:
                self._members[generation].append(trial)

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return self._members[generation]

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        for earlier in range(len(self._parents), generation + 1):
            self._parents.append(self.select_parent(study, earlier))
        return self._parents[generation]
