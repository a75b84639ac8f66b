"""The central test: the supernet, the extracted model, the reloaded folder and the ONNX file have the same logits.

It uses random architectures of every model family, with one output and with several classes.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TEACHERS, make_tokenizer, mixed_space, named_architectures
from tolerance import assert_same
from transformers import AutoModelForSequenceClassification

from nas.architecture import Architecture, compress_all
from nas.export.artefact import ONNX_FILE, write_artefact
from nas.model import CompactBert
from nas.runtimes.runner import onnx_session
from nas.space import SearchSpace
from nas.supernet import BertSupernet, SupernetWeights

FLOAT = ("none", "low_rank(4)", "low_rank(8)", "share", "skip")
KINDS = pytest.mark.parametrize("teacher_kind", TEACHERS)
DRAWN = pytest.mark.parametrize(("outputs", "seed"), [(1, 0), (2, 1), (4, 2)])


@pytest.fixture
def space() -> SearchSpace:
    """A space with every kind of compression method."""
    return mixed_space()


def _onnx_logits(folder, batch):
    return onnx_session(str(folder / ONNX_FILE), 1).run(
        ["logits"], {name: value.numpy() for name, value in batch.items()}
    )[0]


@KINDS
@DRAWN
def test_all_forms_of_a_float_architecture_have_the_same_logits(space, supernet_weights, batch, tmp_path, seed):
    _assert_same_in_all_forms(supernet_weights, _float_sample(space, seed), batch, tmp_path / "export")


@pytest.mark.parametrize("name", named_architectures())
def test_all_forms_of_an_unusual_architecture_have_the_same_logits(name, space, supernet_weights, batch, tmp_path):
    architecture = named_architectures()[name]
    assert space.contains(architecture)
    _assert_same_in_all_forms(supernet_weights, architecture, batch, tmp_path / "export")


def _float_sample(space: SearchSpace, seed: int) -> Architecture:
    """Return a random architecture without quantisation."""
    others = {name for block in space.compression for name in block[1]} - set(FLOAT)
    return space.excluding(tuple(others)).sample(random.Random(seed))


def _assert_same_in_all_forms(weights: SupernetWeights, architecture: Architecture, batch, folder: Path) -> None:
    supernet = BertSupernet(weights)
    with torch.no_grad():
        active = supernet.run(architecture, **batch).logits
        extracted = supernet.extract(architecture)
        write_artefact(extracted, make_tokenizer(), folder)
        reloaded = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        for model in (extracted, reloaded):
            assert_same(model(**batch).logits, active)
    assert_same(_onnx_logits(folder, batch), active)


@KINDS
@pytest.mark.parametrize("seed", range(3))
def test_the_onnx_file_of_a_mixed_architecture_agrees_for_single_texts(space, supernet_weights, batch, tmp_path, seed):
    """The simulation of int8 assumes single texts. Now and then, a value is rounded in the other direction."""
    architecture = space.sample(random.Random(1000 + seed))
    supernet = BertSupernet(supernet_weights)
    folder = tmp_path / "export"
    extracted = supernet.extract(architecture)
    write_artefact(extracted, make_tokenizer(), folder)
    generator = torch.Generator().manual_seed(seed)
    served, simulated = [], []
    for length in (3, 9, 17, 6, 12):
        text = {
            "input_ids": torch.randint(4, 90, (1, length), generator=generator),
            "attention_mask": torch.ones(1, length, dtype=torch.long),
            "token_type_ids": torch.zeros(1, length, dtype=torch.long),
        }
        text = {name: text[name] for name in supernet_weights.config.input_names}
        with torch.no_grad():
            active = supernet.run(architecture, **text).logits
            assert_same(extracted(**text).logits, active)
        served.append(_onnx_logits(folder, text)[0])
        simulated.append(active[0].numpy())
    assert_same(np.stack(served), np.stack(simulated), "int8")


def test_98_percent_of_int8_predictions_agree_with_their_simulation(space, supernet_weights, tmp_path):
    """For random architectures and texts."""
    supernet, rng = BertSupernet(supernet_weights), random.Random(5)
    generator = torch.Generator().manual_seed(5)
    agreed = total = 0
    for number in range(6):
        architecture = compress_all(space.sample(rng), "int8")
        folder = tmp_path / str(number)
        extracted = supernet.extract(architecture)
        write_artefact(extracted, make_tokenizer(), folder)
        session = onnx_session(str(folder / ONNX_FILE), 1)
        for _ in range(60):
            ids = torch.randint(4, 90, (1, 12), generator=generator)
            ones, zeros = torch.ones_like(ids), torch.zeros_like(ids)
            inputs = {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}
            served = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
            with torch.no_grad():
                agreed += int(served.argmax() == extracted(**inputs).logits.argmax().item())
            total += 1
    assert agreed / total >= 0.98


@pytest.mark.parametrize("name", [*named_architectures(), *range(8)])
def test_masked_padding_does_not_change_the_logits_of_float_architectures(name, space, supernet_weights, batch):
    """Padding that is not masked changes them if the architecture has attention."""
    supernet = BertSupernet(supernet_weights)
    architecture = _float_sample(space, name) if isinstance(name, int) else named_architectures()[name]
    padded = {name: torch.nn.functional.pad(value, (0, 6)) for name, value in batch.items()}
    unmasked = padded | {"attention_mask": torch.ones_like(padded["attention_mask"])}
    with torch.no_grad():
        expected = supernet.run(architecture, **batch).logits
        assert_same(supernet.run(architecture, **padded).logits, expected)
        attends = any(layer.num_attention_heads for layer in architecture.layers)
        assert torch.equal(supernet.run(architecture, **unmasked).logits, expected) != attends


def test_sub_networks_share_storage_with_the_supernet(space, supernet_weights):
    narrowed = replace(space.smallest(), hidden_size=space.dimensions.hidden_size[-1])
    views = BertSupernet(supernet_weights).slices(narrowed)
    shared = {parameter.untyped_storage().data_ptr() for parameter in supernet_weights.parameters()}
    assert all(view.untyped_storage().data_ptr() in shared for view in views.values())


def test_an_extracted_model_does_not_share_weights_with_the_supernet(space, supernet_weights, batch):
    extracted = BertSupernet(supernet_weights).extract(space.smallest())
    with torch.no_grad():
        before = extracted(**batch).logits
        for parameter in supernet_weights.parameters():
            parameter.zero_()
        assert_same(extracted(**batch).logits, before)


def test_gradients_reach_only_the_weights_that_the_sub_network_uses(space, supernet_weights, batch):
    architecture = compress_all(space.smallest(), "int8")
    BertSupernet(supernet_weights).run(architecture, **batch).logits.sum().backward()
    gradient = supernet_weights.layers[0].intermediate.dense.weight.grad
    size, hidden = architecture.layers[0].intermediate_size, architecture.hidden_size
    assert gradient[:size, :hidden].abs().sum() > 0 and gradient[size:].abs().sum() == 0
    assert gradient[:size, hidden:].abs().sum() > 0  # by the linear map that predicts the dropped hidden units
    written = supernet_weights.layers[0].output.dense.weight.grad
    assert written[:hidden, :size].abs().sum() > 0
    assert written[hidden:].abs().sum() == 0 and written[:, size:].abs().sum() == 0
    assert supernet_weights.layers[1].intermediate.dense.weight.grad is None


def test_the_largest_sub_network_has_the_logits_of_the_supernet_model(space, supernet_weights, batch):
    with torch.no_grad():
        found = BertSupernet(supernet_weights).run(space.largest(), **batch).logits
        assert_same(found, supernet_weights(**batch).logits)
    assert isinstance(supernet_weights, CompactBert)
