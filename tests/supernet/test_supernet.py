"""Sub-networks run on slices of the shared weights, and gradients flow back through these slices."""

from __future__ import annotations

import random

import torch
from tolerance import assert_same
from torch.func import functional_call

from nas.supernet import BertSupernet


def _ordinary_slice(weights, name, shape, hidden):
    """Return a sub-network's parameter as the leading part of the shared one, or its own one if it is a norm.

    Parameters that read hidden units include the prediction of the missing units.
    """
    module, _, kind = name.rpartition(".")
    narrow = weights.narrow[str(hidden)] if hidden < weights.config.hidden_size else None
    if narrow is not None and module.endswith("LayerNorm"):
        return narrow.get_parameter(f"norms.{name}")
    leading = weights.get_parameter(name)[tuple(slice(size) for size in shape)]
    reader = module.removesuffix(".query").removesuffix(".key").removesuffix(".value")
    if narrow is None or not reader.endswith((".self", "intermediate.dense", "pooler.dense", "classifier")):
        return leading
    completion = narrow.get_parameter(f"missing.{reader}.{kind}")
    return leading + weights.get_parameter(f"{module}.weight")[: shape[0], hidden:] @ completion


def test_gradients_equal_those_of_ordinary_slices(space, supernet_weights, batch):
    """The gradients of two sub-networks are added up in the shared weights."""
    supernet, rng = BertSupernet(supernet_weights), random.Random(0)
    architectures = [space.sample(rng), space.smallest()]
    for architecture in architectures:
        supernet.run(architecture, **batch).logits.square().sum().backward()
    found = {name: parameter.grad for name, parameter in supernet_weights.named_parameters()}
    assert any(gradient is not None for gradient in found.values())
    supernet_weights.zero_grad()
    for architecture in architectures:
        sliced = {}
        for name, parameter in supernet.skeleton(architecture).named_parameters():
            parts = name.split(".")
            if name.startswith("bert.encoder.layer."):
                parts[3] = str(architecture.layers[int(parts[3])].source)
            sliced[name] = _ordinary_slice(supernet_weights, ".".join(parts), parameter.shape, architecture.hidden_size)
        functional_call(supernet.skeleton(architecture), sliced, (), batch).logits.square().sum().backward()
    for name, parameter in supernet_weights.named_parameters():
        assert (found[name] is None) == (parameter.grad is None), name
        if parameter.grad is not None:
            # The gradient of a key's bias is a sum of terms that cancel. They are as large as those of its weight.
            like = supernet_weights.get_parameter(name.replace("key.bias", "key.weight"))
            assert_same(found[name], parameter.grad, size=like.grad, of=name)


def test_a_frozen_parameter_gets_no_gradient(space, supernet_weights, batch):
    supernet_weights.bert.embeddings.word_embeddings.requires_grad_(False)
    BertSupernet(supernet_weights).run(space.smallest(), **batch).logits.sum().backward()
    assert supernet_weights.bert.embeddings.word_embeddings.weight.grad is None
    assert supernet_weights.bert.pooler.dense.weight.grad is not None


def test_an_extracted_sub_network_can_be_used_as_a_supernet(space, supernet_weights, batch):
    architecture = next(item for item in map(space.sample, map(random.Random, range(99))) if len(item.layers) == 2)
    extracted = BertSupernet(supernet_weights).extract(architecture)
    with torch.no_grad():
        own = BertSupernet(extracted).run(architecture, **batch).logits
        assert_same(own, extracted(**batch).logits)


def test_norms_normalise_over_the_units_of_each_hidden_size(space, supernet_weights, batch):
    """Without the norm's weight and bias, the last hidden states have mean 0 and variance 1."""
    for size in space.dimensions.hidden_size:
        architecture = next(a for a in map(space.sample, map(random.Random, range(99))) if a.hidden_size == size)
        model = BertSupernet(supernet_weights).extract(architecture)
        norm = model.layers[-1].output.LayerNorm
        with torch.no_grad():
            last = model(**batch, output_hidden_states=True).hidden_states[-1]
            normal = (last - norm.bias) / norm.weight
        assert last.shape[-1] == size
        assert_same(normal.mean(dim=-1), torch.zeros(last.shape[:-1]), size=last / norm.weight)
        variance = normal.var(dim=-1, unbiased=False)
        assert_same(variance, torch.ones(last.shape[:-1]), size=(last / norm.weight).square())
