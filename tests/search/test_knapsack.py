"""The start from single changes: each option alone, and the best sum within a budget."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import product

import pytest
from driver import costs_of

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.evaluate import CandidateResult
from nas.search.executors import AHEAD
from nas.search.knapsack import best_sums, score, single_changes
from nas.space import SearchSpace

SPACE = SearchSpace.load("tiny")


def _small(**compression):
    values = SPACE.model_dump()
    values["dimensions"] |= {"hidden_size": [16, 32], "num_attention_heads": [2, 4], "intermediate_size": [8, 64]}
    values["compression"] |= {"attention": ["none", "int8"], "feed_forward": ["none"]} | compression
    return SearchSpace.model_validate(values)


def test_each_change_is_one_thing_and_each_thing_is_changed_once():
    found, largest = single_changes(SPACE), SPACE.largest()
    assert found[0] == largest and len(set(found)) == len(found) == 1 + 2 + 1 + 3 + 3 * (5 + 5)
    for changed in found[1:]:
        assert SPACE.contains(changed)
        ends = (changed.hidden_size != largest.hidden_size) + (changed.embedding != largest.embedding)
        blocks = [
            (own.source, block)
            for own, whole in zip(changed.layers, largest.layers, strict=False)
            for block in LAYER_BLOCKS
            if own.option(block) != whole.option(block)
        ]
        assert ends + len(blocks) + (len(changed.layers) < len(largest.layers)) == 1


class Handed:
    """An executor that gives back what was handed over last, and counts how much that is at most."""

    capacity = AHEAD

    def __init__(self):
        self.waiting, self.most = [], 0

    def submit(self, ticket, architecture, rival):
        assert rival == 0.0
        self.waiting.append((ticket, architecture))
        self.most = max(self.most, len(self.waiting))

    def next_result(self):
        ticket, architecture = self.waiting.pop()
        return ticket, CandidateResult(architecture, architecture.hidden_size / 100, 10, 0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert not self.waiting


def test_all_are_scored_as_many_at_a_time_as_the_executor_takes():
    changes, executor = single_changes(SPACE), Handed()
    found = score(executor, changes)
    assert found == {changed: changed.hidden_size / 100 for changed in changes} and executor.most == AHEAD


@pytest.mark.parametrize("seed", range(3))
def test_the_best_sum_is_that_of_trying_all(search_folder, seed):
    space, rng = _small(), random.Random(seed)
    largest, costs = space.largest(), costs_of(search_folder)
    accuracies = {changed: rng.random() for changed in single_changes(space)}

    def loss(one):
        kept = tuple(layer.source for layer in one.layers)
        changes = [
            replace(largest, hidden_size=one.hidden_size),
            replace(largest, embedding=one.embedding),
            replace(largest, layers=tuple(layer for layer in largest.layers if layer.source in kept)),
        ]
        for layer, block in product(one.layers, LAYER_BLOCKS):
            layers = list(largest.layers)
            layers[layer.source] = layers[layer.source].having(block, layer.option(block))
            changes.append(replace(largest, layers=tuple(layers)))
        return sum(accuracies[largest] - accuracies[changed] for changed in changes)

    options = list(product(*(space.options(block) for block in LAYER_BLOCKS)))
    everything = [
        Architecture(
            hidden, tuple(space.layer(source, *pair) for source, pair in zip(kept, pairs, strict=True)), embedding
        )
        for hidden, embedding, kept in product((16, 32), ("none", "int8"), space.layer_sets)
        for pairs in product(options, repeat=len(kept))
    ]
    expected = [
        min(loss(one) for one in everything if costs.cautious_excess(one, budget) <= 0.0) for budget in costs.budgets
    ]
    found = best_sums(space, costs, accuracies)
    assert all(space.contains(one) for one in found)
    assert sorted(map(loss, found)) == pytest.approx(sorted(set(expected)))


def test_blocks_may_be_left_out_but_never_all_of_a_layer(search_folder):
    space = _small(attention=["none", "skip"], feed_forward=["none", "skip"])
    accuracies = {changed: 0.9 - 0.1 * (len(changed.layers) < 3) for changed in single_changes(space)}
    found = best_sums(space, costs_of(search_folder), accuracies)
    assert found and all(space.contains(one) for one in found)
    assert any(layer.option("attention") == (0, "skip") for one in found for layer in one.layers)


def test_a_study_may_begin_with_them(copied_study, nas):
    """Scored once: what is known of the supernet stays when the search begins anew."""
    runs = copied_study.parent / "runs"
    text = re.sub(r'p50_ms = "\d+%"', 'p50_ms = "85%"', copied_study.read_text())
    copied_study.write_text(text.replace("[search]", "[search]\nknapsack = true"))
    code, _, err = nas("search", str(copied_study), "--runs", str(runs))
    assert code == 0, err
    (known,) = (runs / "tiny" / "evaluations").glob("*.jsonl")
    evaluated = [CandidateResult.from_json(json.loads(line)) for line in known.read_text().splitlines() if line]
    space = SearchSpace.load("tiny")
    accuracies = {result.architecture: result.accuracy for result in evaluated if result.complete}
    assert set(single_changes(space)) <= accuracies.keys()
