"""Each dimension of a search space affects the output, the size and the predicted latency of a network.

A published search did not meet this condition.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import TEACHERS
from tolerance import is_same

from nas.architecture import compress_all
from nas.device import Device
from nas.latency.profile import Fit, Profile
from nas.model.sizes import count_parameters, stored_mb
from nas.supernet import BertSupernet


def _variants(space):
    start = space.largest()
    first = start.layers[0]

    def with_first(**changes):
        return replace(start, layers=(replace(first, **changes), *start.layers[1:]))

    for size in space.dimensions.hidden_size[:-1]:
        yield f"hidden_size={size}", replace(start, hidden_size=size)
    for kept in space.layer_sets[:-1]:
        yield f"layers={kept}", replace(start, layers=tuple(layer for layer in start.layers if layer.source in kept))
    for heads in space.dimensions.num_attention_heads[:-1]:
        yield f"heads={heads}", with_first(num_attention_heads=heads)
    for size in space.dimensions.intermediate_size[:-1]:
        yield f"intermediate={size}", with_first(intermediate_size=size)
    yield "attention=int8", with_first(attention="int8")
    yield "feed_forward=int8", with_first(feed_forward="int8")
    yield "embedding=int8", replace(start, embedding="int8")


@pytest.fixture
def profile(space):
    """A profile in which all blocks have different latencies."""
    keys = [f"ends/{hidden}/{choice}" for hidden in (16, 24, 32) for choice in ("none", "int8")]
    for hidden in (16, 24, 32):
        for form in ("", "first_"):
            keys += [f"{form}attention/{hidden}/{heads}/{choice}" for heads, choice in space.options("attention")]
            keys += [f"{form}feed_forward/{hidden}/{size}/{choice}" for size, choice in space.options("feed_forward")]
    table = {key: {"128": 0.1 + 0.001 * number} for number, key in enumerate(keys)}
    return Profile(Device(name="cpu"), {}, table, Fit(0.05, 1.1, 1.1), (1.0,), None, {"p50_ms": 1.0}, 0.1, {})


@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_every_dimension_changes_output_latency_and_size(space, supernet_weights, batch, profile):
    supernet, start = BertSupernet(supernet_weights), space.largest()
    config = supernet_weights.config
    with torch.no_grad():
        logits = supernet.run(start, **batch).logits
        variants = list(_variants(space))
        assert len(variants) == 12
        for name, variant in variants:
            changed = config.with_architecture(variant)
            assert not is_same(supernet.run(variant, **batch).logits, logits), name
            assert profile.predict_ms(variant) != pytest.approx(profile.predict_ms(start)), name
            assert stored_mb(changed) < stored_mb(config), name
            if "int8" not in name:
                assert count_parameters(changed) < count_parameters(config), name


def test_the_predicted_latency_is_the_fitted_sum_of_the_parts(space, profile):
    """The parts add up to 1 ms. The fit adds 10 % and 0.05 ms."""
    parts = {"ends/16/none": 0.2, "first_attention/16/1/none": 0.3, "first_feed_forward/16/8/none": 0.5}
    profile.blocks_ms.update({name: {"128": ms} for name, ms in parts.items()})
    assert profile.predict_ms(compress_all(space.smallest(), "none")) == pytest.approx(1.15)
