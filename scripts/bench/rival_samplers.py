"""Multi-objective samplers from other projects, which the benchmark `samplers` compares with the samplers of nas.

All of them get the same information. The objectives are accuracy and latency. The constraint is the smallest violation
of a budget. `Trials` starts all of them with the same initial population.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

_POPULATION = 20
_REJECTED = 1e6
"""The value of the objectives and of the constraint for a trial without a result. Such a trial is never selected."""


def nsga2(distributions: Mapping[str, BaseDistribution], seed: int) -> BaseSampler:
    """Return Optuna's NSGA-II with its default settings."""
    return NSGAIISampler(seed=seed)


def gaussian_process(distributions: Mapping[str, BaseDistribution], seed: int) -> BaseSampler:
    """Return Optuna's Gaussian process with constrained log expected hypervolume improvement."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return GPSampler(seed=seed)


class SmsEmoa(BaseSampler):
    """The sampler SMS-EMOA of pymoo, which selects by contributions to the hypervolume (Beume et al., EJOR 2007).

    pymoo proposes one generation of trials at a time, and waits for all of them before it proposes the next generation.
    If the search needs another trial while some of them are still running, this trial is drawn at random.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], seed: int) -> None:
        self._distributions = {
            name: distribution for name, distribution in distributions.items() if not distribution.single()
        }
        self._random = RandomSampler(seed=seed)
        self._algorithm = _sms_emoa(list(self._distributions.values()), seed)
        self._generation: Any = None
        self._proposed: dict[int, int] = {}
        """The index in the generation of each trial that has not finished, keyed by trial number."""
        self._next = 0
        self._outcomes: dict[int, tuple[list[float], float]] = {}
        """Objectives (all minimised) and constraint of each finished trial, keyed by its index in the generation."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._generation is None:
            self._generation, self._next = self._algorithm.ask(), 0
            self._outcomes.clear()
        if self._next == len(self._generation):
            return {}
        self._proposed[trial.number] = self._next
        self._next += 1
        values = self._generation[self._proposed[trial.number]].X
        return {name: int(value) for name, value in zip(search_space, values, strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        index = self._proposed.pop(trial.number, None)
        if index is None:
            return
        if state == TrialState.COMPLETE and values:
            self._outcomes[index] = [-values[0], *values[1:]], max(trial.constraints.values(), default=0.0)
        else:
            self._outcomes[index] = [_REJECTED] * len(study.directions), _REJECTED
        if len(self._outcomes) == len(self._generation):
            self._tell_generation()

    def _tell_generation(self) -> None:
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        ordered = [self._outcomes[index] for index in range(len(self._generation))]
        objectives = np.array([values for values, _ in ordered])
        constraints = np.array([[violation] for _, violation in ordered])
        evaluated = StaticProblem(self._algorithm.problem, F=objectives, G=constraints)
        Evaluator().eval(evaluated, self._generation)
        self._algorithm.tell(infills=self._generation)
        self._generation = None


def _sms_emoa(distributions: Sequence[Any], seed: int) -> Any:
    """Return pymoo's SMS-EMOA for integer variables, two objectives and one constraint."""
    from pymoo.algorithms.moo.sms import SMSEMOA
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    lowest, highest = (
        np.array([getattr(distribution, end) for distribution in distributions]) for end in ("low", "high")
    )
    problem = Problem(n_var=len(distributions), n_obj=2, n_ieq_constr=1, xl=lowest, xu=highest, vtype=int)
    algorithm = SMSEMOA(
        pop_size=_POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=SBX(vtype=float, repair=RoundingRepair()),
        mutation=PM(vtype=float, repair=RoundingRepair()),
    )
    algorithm.setup(problem, seed=seed, termination=NoTermination(), verbose=False)
    return algorithm


BASELINE = "nsga2, Optuna's"
RIVALS: dict[str, Callable[[Mapping[str, BaseDistribution], int], BaseSampler]] = {
    BASELINE: nsga2,
    "gp, Optuna's": gaussian_process,
    "sms-emoa, pymoo's": SmsEmoa,
}
