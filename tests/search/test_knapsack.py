"""The knapsack start: scores of single changes, and the networks with the smallest sums of losses within budgets."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import product

import pytest
from driver import costs_of

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.budget import Budget
from nas.evaluate import CandidateResult
from nas.latency.profile import Fit
from nas.pipeline import Run
from nas.pipeline.commands import evaluate_candidates
from nas.pipeline.profiles import costs_of as costs_of_run
from nas.search.executors import AHEAD
from nas.search.knapsack import best_sums, score, single_changes
from nas.space import SearchSpace
from nas.study import Study

SPACE = SearchSpace.load("tiny")


def _small(**compression):
    values = SPACE.model_dump()
    values["dimensions"] |= {"hidden_size": [16, 32], "num_attention_heads": [2, 4], "intermediate_size": [8, 64]}
    values["compression"] |= {"attention": ["none", "int8"], "feed_forward": ["none"]} | compression
    return SearchSpace.model_validate(values)


def test_single_changes_try_every_option_once_and_change_one_thing_at_a_time():
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


class LastInFirstOut:
    """An executor that returns the last submitted candidate first, and records how many were waiting at most."""

    capacity = AHEAD

    def __init__(self):
        self.waiting, self.most = [], 0

    def submit(self, ticket, architecture, to_beat):
        assert to_beat == 0.0
        self.waiting.append((ticket, architecture))
        self.most = max(self.most, len(self.waiting))

    def next_result(self):
        ticket, architecture = self.waiting.pop()
        return ticket, CandidateResult(architecture, architecture.hidden_size / 100, 10, 0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert not self.waiting


def test_all_changes_are_scored_and_the_executor_is_kept_full():
    changes, executor = single_changes(SPACE), LastInFirstOut()
    found = score(executor, changes)
    assert found == {changed: changed.hidden_size / 100 for changed in changes} and executor.most == AHEAD


@pytest.mark.parametrize("bend", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_knapsack_solution_is_the_best_of_all_networks(search_folder, seed, bend):
    """Also if a further millisecond of blocks costs a large network less than a small one (`bend`)."""
    space, rng = _small(), random.Random(seed)
    largest, costs = space.largest(), costs_of(search_folder)
    bent = {name: replace(profile, fit=Fit(0.0, 1.0, 1.0, bend, 0.5)) for name, profile in costs.profiles.items()}
    costs = replace(costs, profiles=bent)
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
            layers[layer.source] = layers[layer.source].with_option(block, layer.option(block))
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
        min(loss(one) for one in everything if costs.cautious_violation(one, budget) <= 0.0) for budget in costs.budgets
    ]
    found = best_sums(space, costs, accuracies)
    assert all(space.contains(one) for one in found)
    assert sorted(map(loss, found)) == pytest.approx(sorted(set(expected)))


def test_the_knapsack_solution_meets_all_limits_of_a_budget(search_folder):
    """The best network for one of the limits exceeds the other limit."""
    costs, rng = costs_of(search_folder), random.Random(0)
    accuracies = {changed: rng.random() for changed in single_changes(SPACE)}
    (fast,) = best_sums(SPACE, replace(costs, budgets=costs.budgets[:1]), accuracies)
    size = costs.metrics(fast, "cpu")["size_mb"]
    both = Budget(name="both", device="cpu", p50_ms="50%", size_mb=0.9 * size)
    (found,) = best_sums(SPACE, replace(costs, budgets=(both,)), accuracies)
    assert (
        costs.cautious_violation(fast, costs.budgets[0]) <= 0.0 < replace(costs, budgets=(both,)).least_violation(fast)
    )
    assert replace(costs, budgets=(both,)).least_violation(found) <= 0.0


@pytest.mark.parametrize("seed", range(4))
def test_knapsack_solutions_with_skipped_blocks_meet_their_budgets(search_folder, seed):
    """Their costs are not additive: without the last attention block, further blocks compute only the first token."""
    space, costs = _small(attention=["none", "skip"], feed_forward=["none", "skip"]), costs_of(search_folder)
    rng = random.Random(seed)
    accuracies = {
        changed: 0.9 - 0.1 * (len(changed.layers) < 3) - 0.02 * rng.random() for changed in single_changes(space)
    }
    skipped = 0
    for budget in costs.budgets:
        (found,) = best_sums(space, replace(costs, budgets=(budget,)), accuracies)
        assert space.contains(found) and costs.cautious_violation(found, budget) <= 0.0
        skipped += any((0, "skip") in map(layer.option, LAYER_BLOCKS) for layer in found.layers)
    assert skipped


def test_a_budget_without_a_knapsack_solution_is_named_in_a_message(search_folder, capsys):
    costs = replace(costs_of(search_folder), budgets=(Budget(name="none", device="cpu", p50_ms="0.1%"),))
    assert best_sums(SPACE, costs, dict.fromkeys(single_changes(SPACE), 0.5)) == []
    assert "none: the knapsack solver found no network with p50_ms <= 0.1% on cpu\n" in capsys.readouterr().err


def test_a_search_begins_with_the_knapsack_solutions_and_reuses_their_scores(copied_study, nas):
    """A search for other budgets reuses the scores, because they belong to the same supernet."""
    runs, text = copied_study.parent / "runs", copied_study.read_text()
    text = text.replace("[supernet]", '[supernet]\nsampling = "spread"')
    (before,) = (runs / "tiny" / "evaluations").glob("*.jsonl")

    def evaluated():
        (known,) = (path for path in before.parent.glob("*.jsonl") if path != before)  # the file of the new supernet
        lines = (json.loads(line) for line in known.read_text().splitlines() if line)
        return [CandidateResult.from_json(line) for line in lines]

    counts = []
    for share in (85, 80):
        changed = re.sub(r'p50_ms = "\d+%"', f'p50_ms = "{share}%"', text).replace(
            "[search]", "[search]\nknapsack = true"
        )
        copied_study.write_text(changed)
        nas("search", copied_study, "--runs", runs)
        objectives = {result.architecture: result.objective for result in evaluated() if result.complete}
        assert set(single_changes(SPACE)) <= objectives.keys()
        run = Run.of(Study.load(copied_study), runs)
        sums = best_sums(SPACE, costs_of_run(run), objectives)
        assert sums and [one.architecture for one in evaluate_candidates(run).results][: len(sums)] == sums
        counts.append(sum(result.architecture in set(single_changes(SPACE)) for result in evaluated()))
    assert counts[0] == counts[1]
