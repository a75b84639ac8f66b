"""Units are ordered by importance, which does not change the function of a network."""

from __future__ import annotations

import weakref

import pytest
import torch
from tiny import TEACHERS
from tolerance import assert_same, slack

from nas.model import CompactBert
from nas.model.axes import Axis
from nas.supernet.importance import magnitude, measure_importance, reorder

KINDS = pytest.mark.parametrize("teacher_kind", TEACHERS)


@pytest.fixture
def labelled(batch):
    return [batch | {"labels": torch.tensor([0, 1, 2, 1, 0])}]


@KINDS
def test_reordering_puts_the_most_important_units_first_and_does_not_change_the_logits(
    supernet_weights, batch, labelled
):
    with torch.no_grad():
        before = supernet_weights(**batch).logits
    importance = measure_importance(supernet_weights, labelled)
    reorder(supernet_weights, importance)
    with torch.no_grad():
        assert_same(supernet_weights(**batch).logits, before)
    again = measure_importance(supernet_weights, labelled)
    for scores in again.values():
        assert torch.all(scores[:-1] >= scores[1:] - slack(scores))
    assert not torch.equal(importance[Axis.HIDDEN, None], again[Axis.HIDDEN, None])


def test_measuring_importance_keeps_no_states_in_memory(supernet_weights, labelled):
    """On a real model, the states of all batches would take gigabytes."""
    states = []
    for layer in supernet_weights.layers:
        layer.output.register_forward_hook(lambda _m, _i, output: states.append(weakref.ref(output)))
    measure_importance(supernet_weights, labelled)
    assert len(states) == len(supernet_weights.layers) and not any(state() is not None for state in states)


def test_every_text_has_the_same_weight_in_batches_of_different_sizes(supernet_weights, labelled):
    (whole,) = labelled
    parts = [{name: value[rows] for name, value in whole.items()} for rows in (slice(0, 4), slice(4, 5))]
    together, apart = measure_importance(supernet_weights, [whole]), measure_importance(supernet_weights, parts)
    # The scores are relative to the size of the first batch.
    for units in ((Axis.HIDDEN, None), (Axis.NEURONS, 0)):
        assert_same(apart[units] * 4, together[units] * 5)


def test_units_without_effect_have_no_importance(supernet_weights, labelled):
    layer = supernet_weights.layers[1]
    head_size = supernet_weights.config.attention_head_size
    with torch.no_grad():
        layer.output.dense.weight[:, 5] = 0.0
        layer.attention.output.dense.weight[:, 2 * head_size : 3 * head_size] = 0.0
    importance = measure_importance(supernet_weights, labelled)
    neurons, heads = importance[Axis.NEURONS, 1], importance[Axis.HEADS, 1]
    assert neurons[5] == 0.0 and (neurons == 0.0).sum() == 1
    assert heads[2] == 0.0 and (heads == 0.0).sum() == 1


def test_importance_estimates_the_change_of_the_loss_when_a_neuron_is_removed(config, batch, labelled):
    """For a neuron with a small effect, the estimate for one text is close to the true change."""
    torch.manual_seed(0)
    model = CompactBert(config).eval()
    one = {name: value[:1] for name, value in batch.items()} | {"labels": torch.tensor([1])}
    importance = measure_importance(model, [one])
    with torch.no_grad():
        before = model(**one).loss
        model.layers[2].output.dense.weight[:, 7] = 0.0
        change = (model(**one).loss - before).abs()
    assert importance[Axis.NEURONS, 2][7].item() == pytest.approx(change.item(), rel=0.1, abs=1e-7)


@KINDS
@torch.no_grad()
def test_magnitude_is_the_sum_of_squares_of_the_weights_that_read_or_write_a_unit(supernet_weights):
    """All weights are zero, except those of neuron 3 and head 1 in layer 1, and those that pool hidden unit 5."""
    for parameter in supernet_weights.parameters():
        parameter.zero_()
    layer = supernet_weights.layers[1]
    attention, gate = layer.attention.self, layer.intermediate.gate
    for linear in (layer.intermediate.dense, *([] if gate is None else [gate])):
        linear.weight[3] = 2.0
    layer.output.dense.weight[:, 3] = 0.5
    for linear in (attention.query, attention.key, attention.value):
        linear.weight[8:16] = 1.0
    layer.attention.output.dense.weight[:, 8:16] = 3.0
    supernet_weights.bert.pooler.dense.weight[:, 5] = 1.0
    scores = magnitude(supernet_weights)
    neurons, heads = torch.zeros(3, 64), torch.zeros(3, 4)
    neurons[1, 3] = 136.0 if gate is None else 264.0  # 32 weights of 2 (twice with a gate) and 32 weights of 0.5
    heads[1, 1] = 3072.0  # 3 x 8 x 32 weights of 1 and 8 x 32 weights of 3
    hidden = torch.full((32,), 100.25 if gate is None else 104.25)  # the same weights, divided among 32 units
    hidden[5] += 32.0
    assert torch.equal(torch.stack([scores[Axis.NEURONS, layer] for layer in range(3)]), neurons)
    assert torch.equal(torch.stack([scores[Axis.HEADS, layer] for layer in range(3)]), heads)
    assert torch.equal(scores[Axis.HIDDEN, None], hidden)
    assert torch.equal(scores[Axis.POOLED, None], torch.ones(32))


@KINDS
def test_reordering_by_magnitude_puts_the_largest_units_first_and_does_not_change_the_logits(supernet_weights, batch):
    with torch.no_grad():
        before = supernet_weights(**batch).logits
        reorder(supernet_weights, magnitude(supernet_weights))
        assert_same(supernet_weights(**batch).logits, before)
    again = magnitude(supernet_weights)
    parts = [scores for (axis, _), scores in again.items() if axis in (Axis.HIDDEN, Axis.HEADS)]
    assert all(torch.all(part[:-1] >= part[1:] - slack(part)) for part in parts)
