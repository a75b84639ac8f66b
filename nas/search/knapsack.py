"""Networks that single changes of the largest one let expect to be the best: a start for a search, if it is asked for.

Each option of each block is scored alone once. If losses of accuracy added up, as latencies nearly do, the best network
within a budget would be a knapsack with one of several things from each group, which is solved exactly. They add up
badly far from the largest network; the best sums are good networks all the same (`studies/LOG.md`, 2026-11-28).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.budget import Budget
from nas.compression import Block, compression
from nas.progress import track
from nas.search.costs import Costs
from nas.search.executors import Executor
from nas.space import SearchSpace


def single_changes(space: SearchSpace) -> list[Architecture]:
    """The largest network, and all that differ from it by one thing: hidden size, embedding, layers, or one block."""
    largest, dimensions = space.largest(), space.dimensions
    found = [largest, *(replace(largest, hidden_size=hidden) for hidden in dimensions.hidden_size)]
    found += [replace(largest, embedding=choice) for choice in space.compression.embedding]
    found += [_with_layers(largest, kept) for kept in space.layer_sets]
    for number, block in product(range(len(largest.layers)), LAYER_BLOCKS):
        found += [_having(largest, number, block, option) for option in _options(space, block)]
    return list(dict.fromkeys(found))


def score(executor: Executor, architectures: Sequence[Architecture]) -> dict[Architecture, float]:
    """The accuracies of architectures, each evaluated wholly."""
    found, handed = dict[Architecture, float](), 0
    with executor, track("Scoring single changes", len(architectures)) as progress:
        while len(found) < len(architectures):
            while handed < len(architectures) and handed - len(found) < executor.capacity:
                executor.submit(handed, architectures[handed], 0.0)
                handed += 1
            _, result = executor.next_result()
            found[result.architecture] = result.accuracy
            progress(len(found))
    return found


def best_sums(space: SearchSpace, costs: Costs, accuracies: Mapping[Architecture, float]) -> list[Architecture]:
    """For each budget the network of the least sum of losses, from the accuracies of all single changes.

    Costs are taken to add up too, as one latency at one length does; a layer that is left without any block keeps its
    smallest one. What misses all budgets by the prediction for the whole network is left out.
    """
    found = (_best_sum(space, costs, budget, accuracies) for budget in costs.budgets)
    return [one for one in dict.fromkeys(found) if one and costs.violation(one) <= 0.0]


class _Sums(NamedTuple):
    """Choices for some blocks: none is both cheaper and better than another. The cheapest is first, the best last."""

    costs: np.ndarray
    losses: np.ndarray
    chosen: np.ndarray
    """The place of each block's option: (sums, blocks)."""

    def best(self) -> _Sums:
        """Without those that another beats."""
        order = np.lexsort((self.losses, self.costs))
        least = np.minimum.accumulate(self.losses[order])
        kept = order[np.append(True, self.losses[order][1:] < least[:-1])]
        return _Sums(*(values[kept] for values in self))

    def with_choice(self, costs: np.ndarray, losses: np.ndarray) -> _Sums:
        """All of these with each option of a further block."""
        before, own = (places.ravel() for places in np.indices((len(self.costs), len(costs))))
        chosen = np.concatenate([self.chosen[before], own[:, None]], axis=1)
        return _Sums(self.costs[before] + costs[own], self.losses[before] + losses[own], chosen).best()


def _best_sum(
    space: SearchSpace, costs: Costs, budget: Budget, accuracies: Mapping[Architecture, float]
) -> Architecture | None:
    """The network of the least sum of losses among those whose sum of costs keeps a budget."""
    largest, best, least = space.largest(), None, np.inf
    sources = [layer.source for layer in largest.layers]

    def loss(*changed: Architecture) -> float:
        return sum(accuracies[largest] - accuracies[one] for one in changed)

    def excesses(changed: Sequence[Architecture]) -> np.ndarray:
        return np.array([costs.cautious_excess(one, budget) for one in changed])

    for hidden, embedding, kept in product(space.dimensions.hidden_size, space.compression.embedding, space.layer_sets):
        attention, feed_forward = (_options(space, block)[0] for block in LAYER_BLOCKS)
        smallest = tuple(space.layer(source, attention, feed_forward) for source in kept)
        base = Architecture(hidden, smallest, embedding)
        ends = (
            replace(largest, hidden_size=hidden),
            replace(largest, embedding=embedding),
            _with_layers(largest, kept),
        )
        sums = _Sums(excesses([base]), np.array([loss(*ends)]), np.zeros((1, 0), int))
        for number, block in product(range(len(kept)), LAYER_BLOCKS):
            options = _options(space, block)
            added = excesses([_having(base, number, block, option) for option in options]) - excesses([base])
            place = sources.index(kept[number])
            lost = [loss(_having(largest, place, block, option)) for option in options]
            sums = sums.with_choice(added, np.array(lost))
        within = np.flatnonzero(sums.costs <= 0.0)
        if len(within) and sums.losses[within[-1]] < least:  # the dearest is the best
            least, chosen = sums.losses[within[-1]], iter(sums.chosen[within[-1]])
            for number, block in product(range(len(kept)), LAYER_BLOCKS):
                base = _having(base, number, block, _options(space, block)[next(chosen)])
            best = space.repaired(base)
    return best


def _options(space: SearchSpace, block: Block) -> list[tuple[int, str]]:
    """The options of a block that say by themselves what it is: none that borrows."""
    return [option for option in space.options(block) if compression(option[1]).weights != "below"]


def _having(architecture: Architecture, number: int, block: Block, option: tuple[int, str]) -> Architecture:
    layers = list(architecture.layers)
    layers[number] = layers[number].having(block, option)
    return replace(architecture, layers=tuple(layers))


def _with_layers(architecture: Architecture, kept: Sequence[int]) -> Architecture:
    return replace(architecture, layers=tuple(layer for layer in architecture.layers if layer.source in kept))
