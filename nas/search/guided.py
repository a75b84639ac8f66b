"""The guided sampler: Bayesian optimisation in which a Gaussian process predicts the accuracy of candidates.

Latency profiles predict the cost of a candidate, so only its accuracy is uncertain. The sampler does not optimise the
complete Pareto front, but certain points on it, called levels (`levels.py`). An accuracy level is the highest accuracy
that is possible within a budget or within a fraction of a budget. A cost level is the lowest cost at which a network
reaches a certain accuracy. Only budgets with an accuracy floor have cost levels. The acquisition function is the
expected improvement at a level (Jones, Schonlau and Welch, 1998; with a constraint: Gardner and others, ICML 2014).

`Trials` uses `GuidedSampler` as its Optuna sampler, and `GuidedSampler` uses `Guide` to choose candidates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from sklearn.gaussian_process.kernels import Kernel

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.evaluate import CandidateResult
from nas.search.costs import Costs
from nas.search.encoding import Encoding
from nas.search.levels import CostStanding, Levels
from nas.search.surrogate import PoolPosterior, Surrogate
from nas.space import SearchSpace

BATCH, _MOST = 8, 128
"""`BATCH` is the minimum number of candidates in a batch. `_MOST` limits how far batches grow with the number of
results.

The surrogate is updated once per batch, and an update takes longer than the choice of the candidates. Batches therefore
grow with the number of results, because a few more results hardly change a surrogate that is conditioned on many.
Batches also grow with the number of pending candidates, because many of these finish at about the same time.
"""
_KNOWN_PER_CHOICE, _RUNNING_PER_CHOICE = 16, 4
"""A batch has one candidate per `_KNOWN_PER_CHOICE` results, or one per `_RUNNING_PER_CHOICE` pending candidates.

The rule that yields the larger batch is used.
"""
_ROUNDS, _CHILDREN, _PARENTS = 3, 300, 8
"""`_ROUNDS` is the number of rounds in which candidates are added to the pool.

In each round, `_CHILDREN` children are generated. From the second round on, the `_PARENTS` best candidates at each
level are the parents.
"""
_BEST = 4
"""In the first round, this many of the best evaluated candidates at each level are the parents."""
_KNOWN = 500
"""The surrogate is conditioned on at most this many results."""
_GROWTH = 1.25
"""The kernel's hyperparameters are refitted each time the number of results has grown by this factor."""


class GuidedSampler(BaseSampler):
    """An Optuna sampler that chooses all parameters of a trial together, based on the results so far.

    `known` contains the results, keyed by architecture. `running` contains the architectures of the pending trials,
    keyed by trial number. `Trials` updates both dictionaries while the search runs. Until the first candidate has been
    evaluated completely, parameters are drawn at random.
    """

    def __init__(
        self,
        distributions: dict[str, BaseDistribution],
        encoding: Encoding,
        costs: Costs,
        known: Mapping[Architecture, CandidateResult],
        running: Mapping[int, Architecture],
        seed: int,
    ) -> None:
        self._distributions, self._encoding, self._seed = distributions, encoding, seed
        self._known, self._running = known, running
        self._guide = Guide(encoding.space, costs)
        self._chosen: list[Architecture] = []
        self._results_at_choice = 0
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions if any(result.complete for result in self._known.values()) else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        running, done = dict.fromkeys(self._running.values()), len(self._known)
        while self._chosen and (self._chosen[0] in running or self._chosen[0] in self._known):
            del self._chosen[0]
        if not self._chosen or done >= self._results_at_choice + _batch(self._results_at_choice, running):
            self._results_at_choice = done
            rng = random.Random(f"guided/{self._seed}/{trial.number + 1}")
            self._chosen = self._guide.choose(list(self._known.values()), running, rng)
        return self._encoding.encode(self._chosen[0]) if self._chosen else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)


class _Candidate(NamedTuple):
    """The features of an architecture, and its rows of the two arrays in `CostStanding`."""

    features: np.ndarray
    within: np.ndarray
    savings: np.ndarray


class Guide:
    """Fits the surrogate, and chooses the next candidates from a large pool by their expected improvement."""

    def __init__(self, space: SearchSpace, costs: Costs) -> None:
        self._space, self._costs = space, costs
        self._floors = list(costs.floors.values())
        self._evaluated: dict[Architecture, _Candidate] = {}
        self._fitted: tuple[int, Kernel] | None = None

    def choose(
        self, results: Sequence[CandidateResult], running: Collection[Architecture], rng: random.Random
    ) -> list[Architecture]:
        """Return the next batch of candidates: new architectures that are predicted to meet at least one budget.

        `results` must not contain two results of the same architecture, and at least one result must be complete.
        `running` contains the pending candidates. The batch is smaller than usual, or even empty, if too few new
        architectures are found.
        """
        evaluated = [self._evaluated_candidate(result) for result in results]
        surrogate = self._surrogate(results, evaluated)
        levels, parents = self._incumbents(results, evaluated, surrogate.least)
        if running:
            self._assume_posterior_means(running, surrogate, levels)
        pool = _Pool(surrogate)
        for _ in range(_ROUNDS):
            pool.extend(self._new_candidates(parents, (self._evaluated, running, pool), rng))
            if not pool:
                return []
            parents = _best_of_levels(_PARENTS, pool.expected_improvement(levels), pool.architectures)
        levels_in_turn = self._levels_of_batch(len(results), _batch(len(results), running), rng)
        return list(pool.choose(levels, levels_in_turn))

    def _evaluated_candidate(self, result: CandidateResult) -> _Candidate:
        if result.architecture not in self._evaluated:
            self._evaluated[result.architecture] = self._candidate(result.architecture, result.exits)
        return self._evaluated[result.architecture]

    def _incumbents(
        self, results: Sequence[CandidateResult], evaluated: Sequence[_Candidate], least: float
    ) -> tuple[Levels, list[Architecture]]:
        """Return the `Levels`, updated with all complete results, and the best architectures at each level.

        `least` is the log-scaled accuracy that is the first incumbent of each accuracy level.
        """
        complete = [index for index, result in enumerate(results) if result.complete]
        accuracies = _log_scaled([results[index].objective for index in complete])
        standing = _standing(evaluated[index] for index in complete)
        required = [level for floor in self._floors for level in floor.levels]
        levels = Levels(np.full(standing.within.shape[1], least), _log_scaled(required))
        levels.update(accuracies, standing)
        values = levels.values_at(accuracies, standing)
        return levels, _best_of_levels(_BEST, values, [results[index].architecture for index in complete])

    def _assume_posterior_means(self, running: Collection[Architecture], surrogate: Surrogate, levels: Levels) -> None:
        """Update `surrogate` and `levels` as if each pending candidate had reached its posterior mean.

        As a result, the next batch avoids candidates that are similar to pending ones.
        """
        candidates = [self._candidate(architecture) for architecture in running]
        x = _features(candidates)
        mean = surrogate.posterior(x).mean
        levels.update(mean, _standing(candidates))
        surrogate.fantasise(x, mean)

    def _new_candidates(
        self, parents: Sequence[Architecture], known: Iterable[Container[Architecture]], rng: random.Random
    ) -> dict[Architecture, _Candidate]:
        """Generate children of `parents`, and return the new ones that are predicted to meet at least one budget.

        A child is new if no container in `known` contains it.
        """
        found = dict[Architecture, _Candidate]()
        for child in self._children(parents, rng):
            if not any(child in group for group in (*known, found)):
                candidate = self._candidate(child)
                if candidate.within.any():
                    found[child] = candidate
        return found

    def _levels_of_batch(self, done: int, count: int, rng: random.Random) -> Iterator[int]:
        """Yield one level index for each candidate of a batch: the level that the candidate should improve.

        Every third candidate is assigned to the accuracy level of a random fraction (below 1) of a random budget. All
        other candidates are assigned to the budgets in turn: to the accuracy level of the full budget or, if the budget
        has an accuracy floor, to a random one of its cost levels.
        """
        budgets, floors = len(self._costs.budgets), self._levels_of_floors()
        for turn in range(done, done + count):
            if turn % 3 == 2:
                yield rng.randrange(budgets, budgets * len(self._costs.shares))
            else:
                budget = (turn - turn // 3) % budgets
                yield rng.choice(floors[budget]) if budget in floors else budget

    def _levels_of_floors(self) -> dict[int, range]:
        """For each budget with an accuracy floor, return the indices of its cost levels, keyed by the budget's index.

        At a cost level, the search looks for the cheapest network that reaches a given accuracy (see `levels.py`).
        """
        start, levels = len(self._costs.budgets) * len(self._costs.shares), dict[int, range]()
        for index, budget in enumerate(self._costs.budgets):
            if floor := self._costs.floors.get(budget.name):
                levels[index] = range(start, start + len(floor.levels))
                start = levels[index].stop
        return levels

    def _surrogate(self, results: Sequence[CandidateResult], evaluated: Sequence[_Candidate]) -> Surrogate:
        """Return a surrogate that is conditioned on `results`.

        The kernel's hyperparameters are not fitted again for each batch. They are fitted to the first `_GROWTH ** n`
        results (rounded up), where `n` is the largest possible integer, and are reused until `n` increases.
        """
        steps = math.floor(math.log(len(results), _GROWTH))
        count = math.ceil(_GROWTH**steps)
        if self._fitted is None or self._fitted[0] != count:
            self._fitted = count, Surrogate(*_examples(results[:count], evaluated)).kernel
        return Surrogate(*_examples(results, evaluated), self._fitted[1])

    def _children(self, parents: Sequence[Architecture], rng: random.Random) -> Iterator[Architecture]:
        """Yield random architectures, mutants of one parent, and mutants of a crossover of two parents."""
        for number in range(_CHILDREN):
            if number % 10 == 0:
                yield self._space.sample(rng, rng.random())
                continue
            child = rng.choice(parents)
            if number % 2:
                child = self._space.crossover(child, rng.choice(parents), rng)
            yield self._space.mutate(child, rng, rate=rng.choice((0.05, 0.1, 0.2)))

    def _candidate(self, architecture: Architecture, exits: Sequence[float] = ()) -> _Candidate:
        costs = 1.0 + np.array(self._costs.cautious_violations(architecture, exits))
        within = np.concatenate([costs <= share for share in self._costs.shares])
        return _Candidate(features(self._space, architecture), within, self._savings(architecture, exits, costs))

    def _savings(self, architecture: Architecture, exits: Sequence[float], costs: np.ndarray) -> np.ndarray:
        """Return an architecture's row of `CostStanding.savings`.

        `costs` (budgets,) is 1 plus the architecture's predicted violation of each budget.
        """
        savings = list[float]()
        for cost, budget in zip(costs, self._costs.budgets, strict=True):
            if floor := self._costs.floors.get(budget.name):
                saving = self._costs.saving(architecture, floor, exits) if cost <= 1.0 else -math.inf
                savings += [saving] * len(floor.levels)
        return np.array(savings)


class _Pool:
    """The candidates from which a batch is chosen, with the posterior distribution of their accuracies."""

    def __init__(self, surrogate: Surrogate) -> None:
        self._candidates: dict[Architecture, _Candidate] = {}
        self._posterior = PoolPosterior(surrogate)

    def __len__(self) -> int:
        return len(self._candidates)

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._candidates

    @property
    def architectures(self) -> list[Architecture]:
        return list(self._candidates)

    def extend(self, candidates: Mapping[Architecture, _Candidate]) -> None:
        if candidates:
            self._posterior.extend(_features(candidates.values()))
            self._candidates |= candidates
            self._standing = _standing(self._candidates.values())

    def expected_improvement(self, levels: Levels) -> np.ndarray:
        """Return the expected improvement (candidates, levels) of each candidate at each level."""
        return levels.expected_improvement(self._posterior.mean, self._posterior.standard_deviation, self._standing)

    def choose(self, levels: Levels, levels_in_turn: Iterable[int]) -> Iterator[Architecture]:
        """For each level in turn, yield the architecture with the largest expected improvement at this level.

        `levels_in_turn` contains the indices of the levels. Each choice assumes that the architectures chosen before it
        reach their posterior means. The iterator stops early if no candidates are left. Do not call `extend` after the
        first choice (see `PoolPosterior.fantasise`).
        """
        architectures = self.architectures
        is_left = np.ones(len(architectures), bool)
        for level in levels_in_turn:
            improvement = np.where(is_left[:, None], self.expected_improvement(levels), 0.0)
            # If no candidate can improve this level, choose by the total improvement at all levels.
            values = improvement[:, level] if improvement[:, level].any() else improvement.sum(axis=1)
            index = int(np.argmax(values))
            if not is_left[index]:
                return
            yield architectures[index]
            levels.update(self._posterior.mean[[index]], self._standing.at([index]))
            self._posterior.fantasise(index)
            is_left[index] = False


def _examples(
    results: Sequence[CandidateResult], evaluated: Sequence[_Candidate]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the data on which a `Surrogate` is conditioned: features, log-scaled objectives and numbers of texts.

    Each array has one row per result. If there are at least `_KNOWN` results, only the best `_KNOWN / 2` results and an
    evenly spaced selection of the others are used.
    """
    indices = sorted(range(len(results)), key=lambda index: -results[index].objective)
    half = _KNOWN // 2
    indices = indices[:half] + indices[half :: max(1, len(indices) // half)]
    chosen = [results[index] for index in indices]
    return (
        _features(evaluated[index] for index in indices),
        _log_scaled([result.objective for result in chosen]),
        np.array([result.examples for result in chosen]),
    )


def _batch(known: int, running: Collection[Architecture]) -> int:
    """Return the size of the next batch (see `BATCH`).

    `known` is the number of results, and `running` contains the pending candidates.
    """
    return max(BATCH, min(known // _KNOWN_PER_CHOICE, _MOST), len(running) // _RUNNING_PER_CHOICE)


def _features(candidates: Iterable[_Candidate]) -> np.ndarray:
    return np.stack([candidate.features for candidate in candidates])


def _standing(candidates: Iterable[_Candidate]) -> CostStanding:
    within, savings = zip(*((candidate.within, candidate.savings) for candidate in candidates), strict=True)
    return CostStanding(np.stack(within), np.stack(savings))


def _log_scaled(accuracy: Sequence[float]) -> np.ndarray:
    """Return -log(1.02 - accuracy) for each accuracy.

    On this scale, the same gain in accuracy counts more if the accuracy is closer to 1.
    """
    scaled: np.ndarray = -np.log(1.02 - np.asarray(accuracy))
    return scaled


def _best_of_levels(count: int, values: np.ndarray, architectures: Sequence[Architecture]) -> list[Architecture]:
    """Return the architectures that are among the `count` best at one or more levels, without repetition.

    `levels.py` explains levels. `values` (architectures, levels) is the value of each architecture at each level.
    """
    places = np.argsort(-values, axis=0, kind="stable")[:count]
    return [architectures[place] for place in dict.fromkeys(places.ravel().tolist())]


def features(space: SearchSpace, architecture: Architecture) -> np.ndarray:
    """Return the feature vector of an architecture.

    The vector consists of the features of the complete network, the features of each layer of the teacher (0 for an
    omitted layer), and the sum of each layer feature over all layers.
    """
    shape, choices = space.teacher, space.compression
    names = [(block, name) for block in LAYER_BLOCKS for name in getattr(choices, block) if name != "none"]
    rows = np.zeros((shape.num_hidden_layers, 6 + len(names)))
    for layer, resolved in zip(architecture.layers, architecture.resolved, strict=True):
        heads = _size(resolved.num_attention_heads / shape.num_attention_heads)
        neurons = _size(resolved.intermediate_size / shape.intermediate_size)
        dropped = 1.0 / layer.keep_tokens if layer.keep_tokens else 0.0
        chosen = (layer.choice(block) == name for block, name in names)
        rows[layer.source] = [1.0, heads, neurons, heads > 0.0, neurons > 0.0, dropped, *chosen]
    ends = [architecture.hidden_size / shape.hidden_size, architecture.exit_threshold, architecture.layers[-1].source]
    compressed = [architecture.embedding == name for name in choices.embedding]
    return np.concatenate([ends, compressed, rows.ravel(), rows.sum(axis=0)])


def _size(share: float) -> float:
    """Return log2(1 + 15 * share), where `share` is the fraction of the teacher's heads or neurons that a layer keeps.

    On this scale, each halving of the fraction is a step of similar size.
    """
    return math.log2(1.0 + 15.0 * share)
