"""Initial candidates from a multiple-choice knapsack problem (`search.knapsack`).

Each option of each block is scored once, as the only change to the largest network. If the accuracy losses of such
changes were additive, as latencies nearly are, the best network within a budget would be the solution of a knapsack
problem: choose one option for each block so that the sum of losses is minimal. `best_sums` solves this problem exactly.
The sums predict the accuracies of much smaller networks poorly, but the networks with the smallest sums are good
nevertheless (`studies/LOG.md`, 2026-11-28). A search proposes these networks first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.budget import Budget, Limits
from nas.compression import Block, compression
from nas.progress import say, track
from nas.search.costs import Costs
from nas.search.executors import Executor
from nas.space import SearchSpace

_SHARES = (1.0, 0.5, 0.25, 0.125)
"""Fractions of the limit on the minimised metric that are tried for a budget with an accuracy floor."""
_TRIED, _STEP = 50, 0.001
"""The maximum number of targets (tightened or relaxed limits) that are tried for each limit, and the smallest
difference between two targets, relative to the limit."""


def single_changes(space: SearchSpace) -> list[Architecture]:
    """Return the largest network and all networks that differ from it in one respect.

    They differ in the hidden size, the compression of the embeddings, the set of layers, or one block.
    """
    largest, dimensions = space.largest(), space.dimensions
    found = [largest, *(replace(largest, hidden_size=hidden) for hidden in dimensions.hidden_size)]
    found += [replace(largest, embedding=choice) for choice in space.compression.embedding]
    found += [_with_layers(largest, kept) for kept in space.layer_sets]
    for number, block in product(range(len(largest.layers)), LAYER_BLOCKS):
        found += [_having(largest, number, block, option) for option in _options(space, block)]
    return list(dict.fromkeys(found))


def score(executor: Executor, architectures: Sequence[Architecture]) -> dict[Architecture, float]:
    """Evaluate architectures completely, and return the objective of each."""
    found, handed = dict[Architecture, float](), 0
    with executor, track("Scoring single changes", len(architectures)) as progress:
        while len(found) < len(architectures):
            while handed < len(architectures) and handed - len(found) < executor.capacity:
                executor.submit(handed, architectures[handed], 0.0)
                handed += 1
            _, result = executor.next_result()
            found[result.architecture] = result.objective
            progress(len(found))
    return found


def best_sums(space: SearchSpace, costs: Costs, accuracies: Mapping[Architecture, float]) -> list[Architecture]:
    """Return, for each budget, the network within the budget that has the smallest sum of accuracy losses.

    `accuracies` holds the objectives of the networks in `single_changes`. The solver assumes that costs are additive
    too. Because they are only nearly additive, the cost of the resulting network is then predicted as a whole, and the
    limit is tightened or relaxed until little of the budget is left. If a budget has several limits, the problem is
    solved separately for each limit, and the best of the networks that meet the whole budget is returned. There may be
    several networks for a budget with an accuracy floor. Early exits, dropped tokens and borrowed weights are not
    considered.
    """
    found = dict[Architecture, None]()
    targets = [target for budget in costs.budgets for target in _targets(budget)]
    costs = replace(costs, budgets=tuple(targets))
    for budget in targets:
        sums = [_best_sum(space, costs, budget, limit, accuracies) for limit in _single_limits(budget)]
        kept = [one for one in sums if one is not None]
        if kept:
            found[min(kept, key=lambda one: one[0])[1]] = None
        else:
            say(f"{budget.name}: the knapsack solver found no network that meets this budget")
    return list(found)


def _targets(budget: Budget) -> list[Budget]:
    """Return the budgets to solve for: the given one or, if it has an accuracy floor, several with tighter limits.

    The tighter limits are fractions of the limit on the minimised metric. Several are tried, because the sums of losses
    do not show which fraction is enough for the required accuracy.
    """
    if not budget.has_floor:
        return [budget]
    first, *others = budget.limits
    name, found = str(budget.minimise), list[Budget]()
    for share in _SHARES:
        given = first.given[name]
        limit = f"{share * float(given.rstrip('% ')):g}%" if isinstance(given, str) else share * given
        limits = Limits.model_validate({"device": first.device, **first.given, name: limit})
        found.append(Budget(name=budget.name, limits=(limits, *others)))
    return found


def _single_limits(budget: Budget) -> list[Budget]:
    return [
        Budget(name=budget.name, limits=(Limits.model_validate({"device": limits.device, name: limit}),))
        for limits in budget.limits
        for name, limit in limits.given.items()
    ]


class _Sums(NamedTuple):
    """Combinations of options for some layers, with their total costs and losses, the cheapest first.

    No combination dominates another one.
    """

    costs: np.ndarray
    losses: np.ndarray
    chosen: np.ndarray
    """The index of each layer's pair of options: (combinations, layers)."""

    def best(self) -> _Sums:
        """Return the combinations that no other combination dominates."""
        order = np.lexsort((self.losses, self.costs))
        least = np.minimum.accumulate(self.losses[order])
        kept = order[np.append(True, self.losses[order][1:] < least[:-1])]
        return _Sums(*(values[kept] for values in self))

    def at_most(self, cost: float) -> _Sums:
        """Return the combinations whose cost is at most `cost`."""
        return _Sums(*(values[self.costs <= cost] for values in self))

    def with_layer(self, costs: np.ndarray, losses: np.ndarray) -> _Sums:
        """Extend each combination by each pair of options for one more layer, and return the non-dominated results."""
        before, own = (places.ravel() for places in np.indices((len(self.costs), len(costs))))
        chosen = np.concatenate([self.chosen[before], own[:, None]], axis=1)
        return _Sums(self.costs[before] + costs[own], self.losses[before] + losses[own], chosen).best()


def _best_sum(
    space: SearchSpace, costs: Costs, budget: Budget, limit: Budget, accuracies: Mapping[Architecture, float]
) -> tuple[float, Architecture] | None:
    """Return the smallest sum of losses within one `limit` of a budget, and the network that has this sum.

    Return None if no network was found that is predicted to meet the whole budget.
    """
    fronts, pairs = list(_fronts(space, replace(costs, budgets=(limit,)).least_violation, accuracies)), _pairs(space)
    best: tuple[float, Architecture] | None = None
    target, low, high = 0.0, -np.inf, np.inf
    for _ in range(_TRIED):
        within = [(sums.at_most(target), ends) for ends, sums in fronts]
        able = [(sums.losses[-1], sums.chosen[-1], ends) for sums, ends in within if len(sums.losses)]
        if not able:
            break
        loss, chosen, (hidden, embedding, kept) = min(able, key=lambda one: one[0])
        layers = tuple(space.layer(source, *pairs[place]) for source, place in zip(kept, chosen, strict=True))
        network = space.repaired(Architecture(hidden, layers, embedding))
        violation = costs.cautious_violation(network, budget)
        if violation > 0.0:
            high = target
        elif best and network == best[1] and high == np.inf:
            break
        else:
            best, low = (float(loss), network), target
        if high - low < _STEP:
            break
        known = np.isfinite(high - low)
        target = (low + high) / 2.0 if known else target - np.copysign(max(abs(violation), _STEP), violation)
    return best


GlobalDimensions = tuple[int, str, tuple[int, ...]]
"""The hidden size, the compression of the embeddings, and the layers that are kept."""
Value = Callable[[Architecture], float]


def _fronts(
    space: SearchSpace, violation: Value, accuracies: Mapping[Architecture, float]
) -> Iterator[tuple[GlobalDimensions, _Sums]]:
    """Yield all `GlobalDimensions`, each with its non-dominated combinations of options.

    The cost of a combination is its violation of a limit.
    """
    largest = space.largest()

    def loss(changed: Architecture) -> float:
        return accuracies[largest] - accuracies[changed]

    lost = {layer.source: _of_pairs(space, largest, number, loss) for number, layer in enumerate(largest.layers)}
    for hidden, embedding, kept in product(space.dimensions.hidden_size, space.compression.embedding, space.layer_sets):
        smallest = tuple(space.layer(source, *_pairs(space)[0]) for source in kept)
        base = Architecture(hidden, smallest, embedding)
        least = violation(base)
        ends = (
            replace(largest, hidden_size=hidden),
            replace(largest, embedding=embedding),
            _with_layers(largest, kept),
        )
        sums = _Sums(np.array([least]), np.array([sum(map(loss, ends))]), np.zeros((1, 0), int))
        for number, source in enumerate(kept):
            added = _of_pairs(space, base, number, violation) - len(LAYER_BLOCKS) * least
            sums = sums.with_layer(added, lost[source])
        yield (hidden, embedding, kept), sums


def _of_pairs(space: SearchSpace, network: Architecture, number: int, value: Value) -> np.ndarray:
    """Return, for each pair of options of a layer, the sum of the values of two networks, (pairs,).

    Each of these networks is `network` with one option of the pair applied.
    """
    single = {
        (block, option): value(_having(network, number, block, option))
        for block in LAYER_BLOCKS
        for option in _options(space, block)
    }
    return np.array([sum(single[own] for own in zip(LAYER_BLOCKS, pair, strict=True)) for pair in _pairs(space)])


def _pairs(space: SearchSpace) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Return all pairs of an attention and a feed-forward option, except for the pairs that leave out both blocks."""
    pairs = product(_options(space, "attention"), _options(space, "feed_forward"))
    return [pair for pair in pairs if any(size for size, _ in pair)]


def _options(space: SearchSpace, block: Block) -> list[tuple[int, str]]:
    """Return the options of a block that do not borrow weights from a layer below."""
    return [option for option in space.options(block) if compression(option[1]).weights != "below"]


def _having(architecture: Architecture, number: int, block: Block, option: tuple[int, str]) -> Architecture:
    layers = list(architecture.layers)
    layers[number] = layers[number].with_option(block, option)
    return replace(architecture, layers=tuple(layers))


def _with_layers(architecture: Architecture, kept: Sequence[int]) -> Architecture:
    return replace(architecture, layers=tuple(layer for layer in architecture.layers if layer.source in kept))
