"""The tolerances allow rounding errors, but not a slice that is wrong by one row or column."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TEACHERS, mixed_space
from tolerance import RELATIVE, assert_same, is_same

from nas.architecture import Architecture, Layer, compress_all
from nas.space import SearchSpace
from nas.supernet import BertSupernet

NARROW = Architecture(24, (Layer(0, 2, 24), Layer(2, 2, 24)))


@pytest.fixture
def space() -> SearchSpace:
    """A space with low-rank methods, which have matrices of their own."""
    return mixed_space()


@pytest.mark.parametrize("number_format", RELATIVE)
def test_the_allowed_difference_is_relative_to_the_largest_value(number_format):
    expected, one = np.array([[400.0, 1e-3], [0.0, 1.0], [1.0, 2.0]]), np.zeros((3, 2))
    one[0, 1] = 400.0 * RELATIVE[number_format]
    assert is_same(expected + 0.99 * one, expected, number_format)
    for wrong in (expected + 1.01 * one, expected * np.nan, expected[:2]):
        with pytest.raises(AssertionError):
            assert_same(wrong, expected, number_format)
    assert not is_same(
        expected + 2 * 400.0 * RELATIVE["float32"], expected, "int8"
    )  # for most texts, the tolerance is that of float32


def _off_by_one(model, tokens):
    """Yield copies of a model in which one row or column of a parameter is replaced by the adjacent one."""
    for name, parameter in model.named_parameters():
        for axis, length in enumerate(parameter.shape):
            if length == 1 or name.endswith("key.bias"):  # it cancels in the softmax
                continue
            row = tokens.get(name.split(".")[-2], -1) if axis == 0 and parameter.ndim == 2 else -1
            if name.endswith("LayerNorm.weight"):  # the unit that differs most from the previous one
                row = int(parameter.diff().abs().argmax()) + 1
            wrong = copy.deepcopy(model)
            changed = wrong.get_parameter(name).data
            changed.select(axis, row).copy_(changed.select(axis, row - 1 if row else 1).clone())
            yield f"{name}, axis {axis}", wrong


@pytest.mark.parametrize("teacher_kind", TEACHERS)
@pytest.mark.parametrize("choice", ["none", "int8", "low_rank(4)"])
def test_a_slice_that_is_wrong_by_one_unit_is_detected(choice, supernet_weights, batch):
    layers = tuple(replace(layer, feed_forward=choice) for layer in NARROW.layers)
    architecture = compress_all(NARROW, choice) if choice == "int8" else replace(NARROW, layers=layers)
    model = BertSupernet(supernet_weights).extract(architecture)
    batch = {name: value.repeat(6, 1) for name, value in batch.items()}  # enough texts to activate every unit of a ReLU
    batch["input_ids"] = (batch["input_ids"] + 13 * torch.arange(30)[:, None]) % 80 + 4
    used = {"word_embeddings": int(batch["input_ids"][0, 0]), "position_embeddings": 1, "token_type_embeddings": 0}
    used["relative_attention_bias"] = 0  # the distance of a token to itself
    with torch.no_grad():
        expected = model(**batch).logits
        assert_same(model(**batch).logits, expected)
        for name, wrong in _off_by_one(model, used):
            found = wrong(**batch).logits
            assert not is_same(found, expected, "int8" if choice == "int8" else "float32"), name
