"""A supernet has low-rank matrices in addition to weights, and its sub-networks use and train only what they need."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from tiny import TEACHERS, make_tokenizer, mixed_space
from tolerance import is_same

from nas.architecture import compress_all
from nas.model.stock import from_stock
from nas.space import SearchSpace
from nas.supernet import BertSupernet, SupernetWeights, training
from nas.supernet.distillation import LossWeights
from nas.supernet.loops import Schedule
from nas.supernet.sampling import sandwich
from nas.tasks import task_kind


@pytest.fixture
def space() -> SearchSpace:
    """Return a space of the teacher's sizes, with low ranks for the embeddings and the feed-forward blocks."""
    values = SearchSpace.load("tiny").model_dump()
    ranks = ["none", "low_rank(4)", "low_rank(20)"]
    sizes = {name: given[-1:] for name, given in values["dimensions"].items()}
    choices = dict.fromkeys(("embedding", "feed_forward"), ranks)
    return SearchSpace.model_validate(values | {"dimensions": sizes | {"layers": [3]}, "compression": choices})


@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_a_higher_rank_starts_nearer_to_the_dense_network(space, teacher, batch):
    """Random weights have hardly any leading directions, so the required difference is small."""
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size, space.compression)
    many = [batch | {"input_ids": (batch["input_ids"] + shift) % 80 + 4} for shift in range(40)]
    weights.fit(many)
    supernet, largest = BertSupernet(weights), space.largest()
    with torch.no_grad():
        dense = supernet.run(largest, **batch).logits
        errors = []
        for choice in ("low_rank(4)", "low_rank(20)"):
            layers = tuple(replace(layer, feed_forward=choice) for layer in largest.layers)
            logits = supernet.run(replace(largest, layers=layers), **batch).logits
            errors.append(float((logits - dense).square().mean() / dense.var()))
    assert errors[1] < 0.7 * errors[0]


def test_low_rank_matrices_are_stored_in_addition_to_the_weight_and_shared_by_all_ranks(space, teacher):
    weights = SupernetWeights.of(from_stock(teacher), [32], space.compression)
    dense = weights.layers[0].intermediate.dense
    assert dense.left.shape == (64, 20) and dense.right.shape == (20, 32) and dense.weight.shape == (64, 32)
    assert not hasattr(weights.layers[0].attention.self.query, "left")  # the space has no low ranks for attention
    layers = tuple(replace(layer, feed_forward="low_rank(4)") for layer in space.largest().layers)
    slices = BertSupernet(weights).slices(replace(space.largest(), layers=layers))
    view = slices["bert.encoder.layer.0.intermediate.dense.left"]
    assert view.shape == (64, 4) and view.untyped_storage().data_ptr() == dense.left.untyped_storage().data_ptr()
    assert "bert.encoder.layer.0.intermediate.dense.weight" not in slices


def test_gradients_of_a_block_reach_only_the_weights_that_it_uses(teacher, batch):
    space = mixed_space()
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size, space.compression)
    supernet = BertSupernet(weights)
    largest = space.largest()
    first, second, third = largest.layers
    architecture = replace(
        largest,
        layers=(
            replace(first, attention="low_rank(4)"),
            replace(second, attention="share", num_attention_heads=0),
            replace(third, feed_forward="skip", intermediate_size=0),
        ),
    )
    supernet.run(architecture, **batch).logits.sum().backward()
    layers = weights.layers
    assert (
        layers[0].attention.self.query.left.grad.abs().sum() > 0 and layers[0].attention.self.query.weight.grad is None
    )
    assert (
        layers[1].attention.self.query.weight.grad is None
        and layers[1].attention.output.LayerNorm.weight.grad is not None
    )
    assert layers[2].attention.self.query.weight.grad is not None and layers[2].output.dense.weight.grad is None


def test_extracted_layers_that_share_a_block_use_the_modules_of_its_owner(teacher, batch):
    space = mixed_space()
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size, space.compression)
    largest = compress_all(space.largest(), "none")
    shared = [replace(layer, feed_forward="share", intermediate_size=0) for layer in largest.layers[1:]]
    model = BertSupernet(weights).extract(replace(largest, layers=(largest.layers[0], *shared)))
    names = [name for name in model.state_dict() if "intermediate.dense" in name]
    assert names == [f"bert.encoder.layer.0.intermediate.dense.{part}" for part in ("weight", "bias")]
    with torch.no_grad():
        before = model(**batch).logits
        model.layers[0].intermediate.dense.bias += 1.0
        assert model.layers[2].intermediate is model.layers[0].intermediate
        assert not is_same(model(**batch).logits, before)


def test_frozen_token_embeddings_leave_the_projection_after_them_trainable(space, teacher, tmp_path):
    weights = SupernetWeights.of(from_stock(teacher), [32], space.compression)
    table = weights.bert.embeddings.word_embeddings
    frozen = {}

    class Stop(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        frozen.update({name: not matrix.requires_grad for name, matrix in table.named_parameters()})
        raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(training, "DistillationTrainer", stop)
        schedule, losses, kind = Schedule(1e-3, 8, steps=1), LossWeights(), task_kind("classification")
        texts = Dataset.from_dict({"input_ids": [[2, 5, 3]], "length": [3]})
        distillation = training.Distillation(weights, texts, make_tokenizer(), schedule, losses, tmp_path, 0, {}, kind)
        distillation.train_supernet(weights, sandwich(space, 1, "spread", 0))
    assert frozen == {"weight": True, "left": True, "right": False}
