"""Sizes computed from an architecture match the extracted network, for every family and compression method."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tiny import TEACHERS, mixed_space, named_architectures
from transformers import PreTrainedConfig

from nas.model.sizes import Sizes, count_parameters, stored_mb
from nas.space import SearchSpace
from nas.supernet import BertSupernet


@pytest.fixture
def space() -> SearchSpace:
    return mixed_space()


def _architectures():
    space, rng = mixed_space(), random.Random(0)
    drawn = [space.sample(rng) for _ in range(10)]
    early = [replace(one, exit_threshold=0.9) for one in drawn[:8] if len(one.layers) > 1]
    # Each compression method of each block occurs at least once, whatever is drawn.
    largest = space.largest()
    changed = [replace(largest, embedding=choice) for choice in space.compression.embedding]
    for block in ("attention", "feed_forward"):
        for option in space.options(block):
            first, last, *rest = largest.layers[::-1]
            changed.append(replace(largest, layers=(*rest[::-1], last, first.with_option(block, option))))
    return [*drawn, *early, *changed, *named_architectures().values()]


@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_sizes_match_the_extracted_model(supernet_weights, config):
    supernet, sizes = BertSupernet(supernet_weights), Sizes(config)
    for architecture in _architectures():
        model = supernet.skeleton(architecture)
        assert sizes.parameters(architecture) == sum(parameter.numel() for parameter in model.parameters())
        assert sizes.parameters(architecture) == count_parameters(model.config)
        assert sizes.stored_mb(architecture) == stored_mb(model.config)


def test_sizes_are_computed_without_building_a_configuration(config, monkeypatch):
    """Building one takes ten times as long as the rest of a prediction."""
    sizes = Sizes(config)
    monkeypatch.setattr(PreTrainedConfig, "__post_init__", lambda self, **given: pytest.fail("was built"))
    for architecture in _architectures()[:5]:
        assert sizes.stored_mb(architecture) > 0.0 and sizes.parameters(architecture) > 0
