"""Ordering by importance."""

from __future__ import annotations

import weakref

import pytest
import torch
from tiny import TEACHERS
from tolerance import assert_same, slack

from nas.model import CompactBert
from nas.supernet.importance import magnitude, measure_importance, reorder

KINDS = pytest.mark.parametrize("teacher_kind", TEACHERS)


@pytest.fixture
def labelled(batch):
    return [batch | {"labels": torch.tensor([0, 1, 2, 1, 0])}]


@KINDS
def test_reordering_keeps_the_function(supernet_weights, batch, labelled):
    with torch.no_grad():
        before = supernet_weights(**batch).logits
    importance = measure_importance(supernet_weights, labelled)
    reorder(supernet_weights, importance)
    with torch.no_grad():
        assert_same(supernet_weights(**batch).logits, before)


@KINDS
def test_what_was_measured_comes_first_afterwards(supernet_weights, labelled):
    importance = measure_importance(supernet_weights, labelled)
    reorder(supernet_weights, importance)
    again = measure_importance(supernet_weights, labelled)
    for scores in (again.hidden, again.pooled, *again.heads, *again.neurons):
        assert torch.all(scores[:-1] >= scores[1:] - slack(scores))
    assert not torch.equal(importance.hidden, again.hidden)


def test_nothing_of_a_batch_is_kept(supernet_weights, labelled):
    """It was: all states of all batches, gigabytes on a real model."""
    states = []
    for layer in supernet_weights.layers:
        layer.output.register_forward_hook(lambda _m, _i, output: states.append(weakref.ref(output)))
    measure_importance(supernet_weights, labelled)
    assert len(states) == len(supernet_weights.layers) and not any(state() is not None for state in states)


def test_units_that_do_nothing_are_last(supernet_weights, labelled):
    layer = supernet_weights.layers[1]
    head_size = supernet_weights.config.attention_head_size
    with torch.no_grad():
        layer.output.dense.weight[:, 5] = 0.0
        layer.attention.output.dense.weight[:, 2 * head_size : 3 * head_size] = 0.0
    importance = measure_importance(supernet_weights, labelled)
    assert importance.neurons[1][5] == 0.0 and (importance.neurons[1] == 0.0).sum() == 1
    assert importance.heads[1][2] == 0.0 and (importance.heads[1] == 0.0).sum() == 1


def test_taylor_estimates_the_loss_of_a_removed_neuron(config, batch, labelled):
    """For a neuron of small effect the estimate is close to the true change of the loss, text by text."""
    torch.manual_seed(0)
    model = CompactBert(config).eval()
    one = {name: value[:1] for name, value in batch.items()} | {"labels": torch.tensor([1])}
    importance = measure_importance(model, [one])
    with torch.no_grad():
        before = model(**one).loss
        model.layers[2].output.dense.weight[:, 7] = 0.0
        change = (model(**one).loss - before).abs()
    assert importance.neurons[2][7].item() == pytest.approx(change.item(), rel=0.1, abs=1e-7)


@KINDS
def test_magnitude_counts_what_reads_and_writes_a_unit(supernet_weights, batch):
    layer, head_size = supernet_weights.layers[1], supernet_weights.config.attention_head_size
    with torch.no_grad():
        before = supernet_weights(**batch).logits
        scores = magnitude(supernet_weights)
        inner = [part for part in (layer.intermediate.dense, layer.intermediate.gate) if part is not None]
        rows = sum(part.weight[3].square().sum() for part in inner)
        columns = layer.output.dense.weight[:, 3].square().sum()
        assert_same(scores.neurons[1][3], rows + columns)
        assert torch.all(scores.hidden > supernet_weights.bert.pooler.dense.weight.square().sum(dim=0))
        part = slice(head_size, 2 * head_size)
        attention = layer.attention.self
        head = sum(item.weight[part].square().sum() for item in (attention.query, attention.key, attention.value))
        head = head + layer.attention.output.dense.weight[:, part].square().sum()
        assert_same(scores.heads[1][1], head)
        reorder(supernet_weights, scores)
        assert_same(supernet_weights(**batch).logits, before)
    again = magnitude(supernet_weights)
    assert all(torch.all(part[:-1] >= part[1:] - slack(part)) for part in (again.hidden, *again.heads))
