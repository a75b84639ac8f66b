"""Sizes computed from an architecture match the extracted network, for every family and compression method."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tiny import TEACHERS, mixed_space, named_architectures
from transformers import PreTrainedConfig

from nas.architecture import Architecture, Layer
from nas.model.sizes import MB, Sizes, count_parameters, stored_mb
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


# A network with one layer, 16 hidden units, 2 heads of 8 features and 24 neurons has these parameters:
# - 90 + 40 + 2 embeddings of 16 numbers, and a norm of 2 x 16: 2,144;
# - 4 linear layers of 16 x 16 + 16, and a norm: 1,120;
# - linear layers of 24 x 16 + 24 and 16 x 24 + 16, and a norm: 840;
# - a pooler of 16 x 16 + 16 and a classifier of 3 x 16 + 3: 323.
# Each takes 4 bytes. In int8, a weight takes 1 byte, and each row has a scale of 4 bytes.
@pytest.mark.parametrize(
    ("embedding", "attention", "feed_forward", "parameters", "stored_bytes"),
    [
        ("none", "none", "none", 4427, 17_708),
        ("int8", "none", "none", 4427, 17_708 - 4 * 1440 + (1440 + 4 * 90)),
        ("none", "int8", "none", 4427, 17_708 - 4 * 4 * 272 + 4 * (256 + 4 * 16 + 4 * 16)),
        ("none", "none", "int8", 4427, 17_708 - 4 * 808 + (384 + 8 * 24) + (384 + 8 * 16)),
        ("none", "low_rank(4)", "none", 4427 - 4 * (256 - 128), 17_708 - 4 * 4 * (256 - 128)),
    ],
)
def test_sizes_of_a_small_network(config, monkeypatch, embedding, attention, feed_forward, parameters, stored_bytes):
    """The sizes are computed without a configuration. Building one takes ten times as long as the rest."""
    architecture = Architecture(16, (Layer(0, 2, 24, attention, feed_forward),), embedding)
    own = config.with_architecture(architecture)
    assert (count_parameters(own), round(stored_mb(own) * MB)) == (parameters, stored_bytes)
    sizes = Sizes(config)
    monkeypatch.setattr(PreTrainedConfig, "__post_init__", lambda self, **given: pytest.fail("was built"))
    assert (sizes.parameters(architecture), round(sizes.stored_mb(architecture) * MB)) == (parameters, stored_bytes)
