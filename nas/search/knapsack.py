"""Initial candidates that solve a multiple-choice knapsack problem (`search.knapsack`).

An option of a block is a size and a compression method. Each option is evaluated once, as the only change to the
largest network. If the accuracy losses of such changes were additive, as latencies nearly are, the best network within
a budget would solve a knapsack problem: choose one option for each block so that the sum of losses is minimal.
`best_sums` solves this problem exactly. The sum of losses is a poor prediction of the accuracy of much smaller
networks, but the networks with the smallest sums are good nevertheless (`studies/LOG.md`, 2026-11-28). A search
proposes these networks first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.budget import RATES, Budget, Limits
from nas.compression import Block, compression
from nas.progress import say, track
from nas.search.costs import Costs
from nas.search.executors import Executor, evaluate_all
from nas.space import SearchSpace

_MAX_TARGETS, _MIN_STEP = 50, 0.001
"""`_MAX_TARGETS` is the maximum number of targets that are tried for a limit.

A target is a tightened or relaxed limit, expressed relative to the original limit: -0.1 means that the target is 10 %
tighter. `_MIN_STEP` is the smallest difference between two targets.
"""


def single_changes(space: SearchSpace) -> list[Architecture]:
    """Return the largest network, and all networks that differ from it in a single choice.

    The choice is the hidden size, the compression method of the embeddings, the set of layers, or the option of one
    block (its size and its compression method). Options that borrow weights from a layer below are left out.
    """
    largest, dimensions = space.largest(), space.dimensions
    changes = [largest, *(replace(largest, hidden_size=hidden) for hidden in dimensions.hidden_size)]
    changes += [replace(largest, embedding=choice) for choice in space.compression.embedding]
    changes += [_with_layers(largest, kept) for kept in space.layer_sets]
    for index, block in product(range(len(largest.layers)), LAYER_BLOCKS):
        changes += [_with_option(largest, index, block, option) for option in _options(space, block)]
    return list(dict.fromkeys(changes))


def score(executor: Executor, architectures: Sequence[Architecture]) -> dict[Architecture, float]:
    """Evaluate architectures on all texts, and return their objectives, keyed by architecture."""
    objectives = dict[Architecture, float]()
    with executor, track("Evaluating single changes of the largest network", len(architectures)) as progress:
        for result in evaluate_all(executor, architectures):
            objectives[result.architecture] = result.objective
            progress(len(objectives))
    return objectives


def best_sums(space: SearchSpace, costs: Costs, accuracies: Mapping[Architecture, float]) -> list[Architecture]:
    """For each budget, return the network with the smallest sum of accuracy losses.

    `accuracies` contains the objectives of the networks in `single_changes`, keyed by architecture. The solver assumes
    that accuracy losses and costs are additive, but costs are only nearly additive. Therefore, the cost of the
    resulting network is predicted, and the problem is solved again with a tightened or relaxed limit until little of
    the budget is left unused. If a budget has several limits, the problem is solved for each limit separately. Of the
    resulting networks that meet all limits, the one with the smallest sum is returned. A budget with an accuracy floor
    may yield several networks. Early exits, dropped tokens and borrowed weights are not considered.
    """
    networks = dict[Architecture, None]()
    targets = [target for budget in costs.budgets for target in _targets(budget, costs.shares)]
    costs = replace(costs, budgets=tuple(targets))
    for budget in targets:
        solutions = [_best_sum(space, costs, budget, limit, accuracies) for limit in _single_limits(budget)]
        solved = [solution for solution in solutions if solution is not None]
        if solved:
            networks[min(solved, key=lambda solution: solution[0])[1]] = None
        else:
            conditions = (
                f"{name} {'>=' if name in RATES else '<='} {limit} on {limits.device}"
                for limits in budget.limits
                for name, limit in limits.given.items()
            )
            say(f"{budget.name}: the knapsack solver found no network with {', '.join(conditions)}")
    return list(networks)


def _targets(budget: Budget, shares: Sequence[float]) -> list[Budget]:
    """Return the budgets for which the knapsack problem is solved.

    A budget without an accuracy floor is returned unchanged. A budget with a floor is replaced by several budgets
    without a floor. In each of these, the limit on the minimised metric is multiplied by one of the factors in
    `shares`. Several factors are tried, because the sums of losses do not show at which cost a network reaches the
    required accuracy.
    """
    if not budget.has_floor:
        return [budget]
    first, *other_limits = budget.limits
    name, targets = str(budget.minimise), list[Budget]()
    for share in shares:
        full_limit = first.given[name]
        limit = f"{share * float(full_limit.rstrip('% ')):g}%" if isinstance(full_limit, str) else share * full_limit
        limits = Limits.model_validate({"device": first.device, **first.given, name: limit})
        targets.append(Budget(name=budget.name, limits=(limits, *other_limits)))
    return targets


def _single_limits(budget: Budget) -> list[Budget]:
    return [
        Budget.model_validate({"name": budget.name, "device": limits.device, name: limit})
        for limits in budget.limits
        for name, limit in limits.given.items()
    ]


class _Combinations(NamedTuple):
    """Combinations of options for some layers, in ascending order of total cost.

    `costs` and `losses` (combinations,) are the total cost and the total loss of each combination. No combination
    dominates another one.
    """

    costs: np.ndarray
    losses: np.ndarray
    pair_indices: np.ndarray
    """For each combination and each layer, the index of the pair of options in `_pairs`: (combinations, layers)."""

    def non_dominated(self) -> _Combinations:
        order = np.lexsort((self.losses, self.costs))
        least = np.minimum.accumulate(self.losses[order])
        kept = order[np.append(True, self.losses[order][1:] < least[:-1])]
        return _Combinations(*(values[kept] for values in self))

    def at_most(self, cost: float) -> _Combinations:
        return _Combinations(*(values[self.costs <= cost] for values in self))

    def with_layer(self, costs: np.ndarray, losses: np.ndarray) -> _Combinations:
        """Combine each combination with each pair of options for one more layer, and return the non-dominated results.

        `costs` and `losses` (pairs,) are the cost and the loss that each pair adds.
        """
        earlier, pair = (indices.ravel() for indices in np.indices((len(self.costs), len(costs))))
        pair_indices = np.concatenate([self.pair_indices[earlier], pair[:, None]], axis=1)
        costs, losses = self.costs[earlier] + costs[pair], self.losses[earlier] + losses[pair]
        return _Combinations(costs, losses, pair_indices).non_dominated()


def _best_sum(
    space: SearchSpace, costs: Costs, budget: Budget, limit: Budget, accuracies: Mapping[Architecture, float]
) -> tuple[float, Architecture] | None:
    """Return the smallest sum of losses within `limit`, and the network that has this sum.

    `limit` is a budget with only one of the limits of `budget`. Return None if no network is found that is predicted to
    meet all limits of `budget`.
    """
    fronts, pairs = list(_fronts(space, replace(costs, budgets=(limit,)).least_violation, accuracies)), _pairs(space)
    best: tuple[float, Architecture] | None = None
    target, low, high = 0.0, -np.inf, np.inf
    for _ in range(_MAX_TARGETS):
        within_target = [(front.at_most(target), dimensions) for dimensions, front in fronts]
        solutions = [
            (front.losses[-1], front.pair_indices[-1], dimensions)
            for front, dimensions in within_target
            if len(front.losses)
        ]
        if not solutions:
            break
        loss, pair_indices, (hidden, embedding, kept) = min(solutions, key=lambda solution: solution[0])
        layers = tuple(space.layer(source, *pairs[index]) for source, index in zip(kept, pair_indices, strict=True))
        network = space.repaired(Architecture(hidden, layers, embedding))
        violation = costs.cautious_violation(network, budget)
        if violation > 0.0:
            high = target
        elif best and network == best[1] and high == np.inf:
            break
        else:
            best, low = (float(loss), network), target
        if high - low < _MIN_STEP:
            break
        bracketed = np.isfinite(high - low)
        target = (low + high) / 2.0 if bracketed else target - np.copysign(max(abs(violation), _MIN_STEP), violation)
    return best


GlobalDimensions = tuple[int, str, tuple[int, ...]]
"""The hidden size, the compression method of the embeddings, and the indices of the layers that are kept."""
Value = Callable[[Architecture], float]


def _fronts(
    space: SearchSpace, violation: Value, accuracies: Mapping[Architecture, float]
) -> Iterator[tuple[GlobalDimensions, _Combinations]]:
    """Yield all `GlobalDimensions`, each with the non-dominated combinations of options for the kept layers.

    The cost of a combination is an approximation of `violation`, which predicts by how much a network violates a limit.
    """
    largest = space.largest()

    def loss(changed: Architecture) -> float:
        return accuracies[largest] - accuracies[changed]

    losses = {layer.source: _pair_values(space, largest, index, loss) for index, layer in enumerate(largest.layers)}
    for hidden, embedding, kept in product(space.dimensions.hidden_size, space.compression.embedding, space.layer_sets):
        smallest_layers = tuple(space.layer(source, *_pairs(space)[0]) for source in kept)
        base = Architecture(hidden, smallest_layers, embedding)
        base_violation = violation(base)
        global_changes = (
            replace(largest, hidden_size=hidden),
            replace(largest, embedding=embedding),
            _with_layers(largest, kept),
        )
        global_loss = sum(map(loss, global_changes))
        combinations = _Combinations(np.array([base_violation]), np.array([global_loss]), np.zeros((1, 0), int))
        for index, source in enumerate(kept):
            added_violations = _pair_values(space, base, index, violation) - len(LAYER_BLOCKS) * base_violation
            combinations = combinations.with_layer(added_violations, losses[source])
        yield (hidden, embedding, kept), combinations


def _pair_values(space: SearchSpace, network: Architecture, index: int, value: Value) -> np.ndarray:
    """Return the values (pairs,) of all pairs of options for the layer at `index`.

    The value of a pair is the sum of two calls of `value`: for `network` with the pair's attention option, and for
    `network` with the pair's feed-forward option.
    """
    option_values = {
        (block, option): value(_with_option(network, index, block, option))
        for block in LAYER_BLOCKS
        for option in _options(space, block)
    }
    options_of_pairs = (zip(LAYER_BLOCKS, pair, strict=True) for pair in _pairs(space))
    return np.array([sum(option_values[option] for option in options) for options in options_of_pairs])


def _pairs(space: SearchSpace) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Return all pairs of an attention option and a feed-forward option, except for pairs that omit both blocks."""
    pairs = product(_options(space, "attention"), _options(space, "feed_forward"))
    return [pair for pair in pairs if any(size for size, _ in pair)]


def _options(space: SearchSpace, block: Block) -> list[tuple[int, str]]:
    """Return the options of a block that do not borrow weights from a layer below."""
    return [option for option in space.options(block) if compression(option[1]).weights != "below"]


def _with_option(architecture: Architecture, index: int, block: Block, option: tuple[int, str]) -> Architecture:
    layers = list(architecture.layers)
    layers[index] = layers[index].with_option(block, option)
    return replace(architecture, layers=tuple(layers))


def _with_layers(architecture: Architecture, kept: Sequence[int]) -> Architecture:
    return replace(architecture, layers=tuple(layer for layer in architecture.layers if layer.source in kept))
