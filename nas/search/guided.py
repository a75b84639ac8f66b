"""Guided sampling: a model of accuracy says which of many candidates are worth an evaluation.

What a candidate costs is known from the profiles, so only its accuracy is in doubt. The front is seen as the best
accuracy at several levels, the budgets and shares of them, and as the least cost at which an accuracy is reached
that a budget asks for; a candidate is worth what it is expected to add to that (expected improvement: Jones, Schonlau
and Welch, 1998; under a constraint: Gardner and others, ICML 2014).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from sklearn.gaussian_process.kernels import Kernel

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.evaluate import CandidateResult
from nas.search.belief import Belief, Outlook
from nas.search.costs import Costs
from nas.search.encoding import Encoding
from nas.search.levels import Levels, Standing
from nas.space import SearchSpace

BATCH, _MOST = 8, 128
"""At least so many are chosen together; then the model learns what they came to. Learning takes longer than choosing:
where much is known, little is to be learnt from a few more, and where many are in flight, many come to be known at a
time."""
_KNOWN_PER_CHOICE, _RUNNING_PER_CHOICE = 16, 4
"""One is chosen for so many that are known, at most `_MOST` together, or for so many that are in flight."""
_ROUNDS, _CHILDREN, _PARENTS = 3, 300, 8
_BEST = 4
"""So many evaluated candidates of each level have children."""
_KNOWN = 500
"""So many evaluated candidates the model knows at most."""
_GROWTH = 1.25
"""The settings are fitted anew when so many times as many candidates are known."""


class GuidedSampler(BaseSampler):
    """Chooses all parameters of a trial at once, from the results that are known by then."""

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
        self._learnt_from = 0
        self._otherwise = RandomSampler(seed=seed)

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
        if not self._chosen or done >= self._learnt_from + _batch(self._learnt_from, running):
            self._learnt_from = done
            rng = random.Random(f"guided/{self._seed}/{trial.number + 1}")
            self._chosen = self._guide.choose(list(self._known.values()), running, rng)
        return self._encoding.encode(self._chosen[0]) if self._chosen else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._otherwise.sample_independent(study, trial, param_name, param_distribution)


class _About(NamedTuple):
    """What is known of an architecture before it is evaluated: its features, and how it stands at each level."""

    features: np.ndarray
    keeps: np.ndarray
    savings: np.ndarray


class Guide:
    """Learns how accurate architectures are, and chooses the next among many by what they cost and promise."""

    def __init__(self, space: SearchSpace, costs: Costs) -> None:
        self._space, self._costs = space, costs
        self._floors = list(costs.floors.values())
        self._evaluated: dict[Architecture, _About] = {}
        self._fitted: tuple[int, Kernel] | None = None

    def choose(
        self, results: Sequence[CandidateResult], running: Collection[Architecture], rng: random.Random
    ) -> list[Architecture]:
        """The next candidates: within a budget, not evaluated and not running. Fewer if there are no more.

        The results are those of the last call, and after them new ones, each of another architecture.
        """
        for result in results[len(self._evaluated) :]:
            self._evaluated[result.architecture] = self._about(result.architecture, result.exits)
        known = list(self._evaluated.values())
        model = self._learnt(results, known)
        places = [place for place, result in enumerate(results) if result.complete]
        whole = [results[place] for place in places]
        accuracy = _stretched([result.objective for result in whole])
        standing = _standing(known[place] for place in places)
        reached = [level for floor in self._floors for level in floor.levels]
        levels = Levels(np.full(standing.keeps.shape[1], model.least), _stretched(reached))
        levels.take(accuracy, standing)
        found = levels.found(accuracy, standing)
        if running:  # they are taken to come out as expected, so that the next are others
            abouts = [self._about(architecture) for architecture in running]
            x = _features(abouts)
            mean = model.posterior(x).mean
            levels.take(mean, _standing(abouts))
            model.suppose(x, mean)
        pool, outlook = dict[Architecture, _About](), Outlook(model)
        parents = _first(_BEST, found, [result.architecture for result in whole])
        for _ in range(_ROUNDS):
            fresh = dict[Architecture, _About]()
            for child in self._children(parents, rng):
                if not any(child in others for others in (self._evaluated, running, pool, fresh)):
                    about = self._about(child)
                    if about.keeps.any():
                        fresh[child] = about
            if fresh:
                outlook.extend(_features(fresh.values()))
                pool |= fresh
            if not pool:
                return []
            standing = _standing(pool.values())
            parents = _first(_PARENTS, levels.gain(outlook.mean, outlook.doubt, standing), list(pool))
        proposed, turns = list(pool), self._turns(len(results), _batch(len(results), running), rng)
        return [proposed[place] for place in _picked(outlook, levels, standing, turns)]

    def _turns(self, done: int, count: int, rng: random.Random) -> Iterator[int]:
        """The levels that candidates of a batch are chosen for: budgets in turns, each third time a share of one.

        Of a budget with a floor it is one of the floor's levels.
        """
        budgets, floors = len(self._costs.budgets), self._levels_of_floors()
        for turn in range(done, done + count):
            by_share, place = turn % 3 == 2, (turn - turn // 3) % budgets
            if by_share:
                yield rng.randrange(budgets, budgets * len(self._costs.shares))
            else:
                yield rng.choice(floors[place]) if place in floors else place

    def _levels_of_floors(self) -> dict[int, range]:
        """The levels of cost of each budget that has a floor, by the budget's place."""
        at, found = len(self._costs.budgets) * len(self._costs.shares), dict[int, range]()
        for place, budget in enumerate(self._costs.budgets):
            if floor := self._costs.floors.get(budget.name):
                found[place] = range(at, at + len(floor.levels))
                at = found[place].stop
        return found

    def _learnt(self, results: Sequence[CandidateResult], known: Sequence[_About]) -> Belief:
        """The model of the results, its own settings fitted to as many of the first as there were at the last step."""
        steps = math.floor(math.log(len(results), _GROWTH))
        count = math.ceil(_GROWTH**steps)
        if self._fitted is None or self._fitted[0] != count:
            self._fitted = count, Belief(*_examples(results[:count], known)).kernel
        return Belief(*_examples(results, known), self._fitted[1])

    def _children(self, parents: Sequence[Architecture], rng: random.Random) -> Iterator[Architecture]:
        """Mutants of parents, of two of them crossed, and some at random."""
        for number in range(_CHILDREN):
            if number % 10 == 0:
                yield self._space.sample(rng, rng.random())
                continue
            child = rng.choice(parents)
            if number % 2:
                child = self._space.crossover(child, rng.choice(parents), rng)
            yield self._space.mutate(child, rng, rate=rng.choice((0.05, 0.1, 0.2)))

    def _about(self, architecture: Architecture, exits: Sequence[float] = ()) -> _About:
        costs = 1.0 + np.array(self._costs.cautious_excesses(architecture, exits))
        keeps = np.concatenate([costs <= share for share in self._costs.shares])
        return _About(features(self._space, architecture), keeps, self._savings(architecture, exits, costs))

    def _savings(self, architecture: Architecture, exits: Sequence[float], costs: np.ndarray) -> np.ndarray:
        """What an architecture saves at each level of cost, if it keeps the budget."""
        found = list[float]()
        for place, budget in enumerate(self._costs.budgets):
            if floor := self._costs.floors.get(budget.name):
                saved = self._costs.saving(architecture, floor, exits) if costs[place] <= 1.0 else -math.inf
                found += [saved] * len(floor.levels)
        return np.array(found)


def _examples(results: Sequence[CandidateResult], known: Sequence[_About]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a model learns from, feature rows, values and numbers of texts; of very many results the most accurate
    half, and some of the others.
    """
    ordered = sorted(range(len(results)), key=lambda place: -results[place].objective)
    half = _KNOWN // 2
    ordered = ordered[:half] + ordered[half :: max(1, len(ordered) // half)]
    chosen = [results[place] for place in ordered]
    return (
        _features(known[place] for place in ordered),
        _stretched([result.objective for result in chosen]),
        np.array([result.examples for result in chosen]),
    )


def _batch(known: int, running: Collection[Architecture]) -> int:
    return max(BATCH, min(known // _KNOWN_PER_CHOICE, _MOST), len(running) // _RUNNING_PER_CHOICE)


def _features(known: Iterable[_About]) -> np.ndarray:
    return np.stack([about.features for about in known])


def _standing(known: Iterable[_About]) -> Standing:
    return Standing.of((about.keeps, about.savings) for about in known)


def _stretched(accuracy: Sequence[float]) -> np.ndarray:
    """Accuracies on a scale where a point counts more the fewer are missing."""
    stretched: np.ndarray = -np.log(1.02 - np.asarray(accuracy))
    return stretched


def _picked(outlook: Outlook, levels: Levels, standing: Standing, turns: Iterable[int]) -> Iterator[int]:
    """For one level after the other the place of what is expected to add most to the best there; fewer if there are
    no more. What is picked is taken to come out as expected.
    """
    left = np.ones(len(standing.keeps), bool)
    for level in turns:
        gain = np.where(left[:, None], levels.gain(outlook.mean, outlook.doubt, standing), 0.0)
        own = gain[:, level] if gain[:, level].any() else gain.sum(axis=1)  # a level may be out of reach
        place = int(np.argmax(own))
        if not left[place]:
            return
        yield place
        levels.take(outlook.mean[[place]], standing.at([place]))
        outlook.suppose(place)
        left[place] = False


def _first(count: int, values: np.ndarray, architectures: Sequence[Architecture]) -> list[Architecture]:
    """Of architectures those that have one of the highest values (architectures, levels) at some level."""
    places = np.argsort(-values, axis=0, kind="stable")[:count]
    return [architectures[place] for place in dict.fromkeys(places.ravel().tolist())]


def features(space: SearchSpace, architecture: Architecture) -> np.ndarray:
    """An architecture as numbers: its ends, each of the teacher's layers, and sums over the layers."""
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
    """Of a share of the teacher's heads or neurons: each halving takes about as much away."""
    return math.log2(1.0 + 15.0 * share)
