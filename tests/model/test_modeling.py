"""A sub-network has the counted parameters, compiles as a whole, and is converted from and to transformers' classes."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import get_args

import pytest
import torch
from tiny import TEACHERS, mixed_space, named_architectures, randomise
from tolerance import assert_same
from transformers import AutoConfig, AutoModelForSequenceClassification

from nas.architecture import Architecture, Layer
from nas.errors import ExportError, TeacherError
from nas.form import OUTPUT_NAMES, Readout
from nas.graph import GraphBuilder
from nas.model import CompactBert
from nas.model.modeling import READOUTS
from nas.model.onnx import to_onnx
from nas.model.sizes import MB, count_parameters, stored_mb
from nas.model.stock import AUTO_CLASSES, compact_config, fits_stock, from_stock, shape_of, to_stock
from nas.supernet import BertSupernet

KINDS = pytest.mark.parametrize("teacher_kind", TEACHERS)
DISTINCT = ("bert", "electra", "mpnet", "modernbert")
"""Kinds of teachers whose networks consist of different operations."""
OUTPUTS = pytest.mark.parametrize("outputs", [1, 2, 4])


@KINDS
@pytest.mark.parametrize(("outputs", "seed"), [(1, 0), (2, 1), (4, 2)])
def test_counts_of_parameters_and_bytes_match_the_network(config, seed):
    _assert_counts_match(config.with_architecture(mixed_space().sample(random.Random(seed))))


@pytest.mark.parametrize(
    ("teacher_kind", "name"),
    [*((kind, "random") for kind in DISTINCT), *(("bert", name) for name in named_architectures())],
)
def test_a_network_compiles_to_a_single_graph(config, name, batch):
    """Each graph break would cost time in serving, and one more compilation."""
    own = named_architectures().get(name) or replace(mixed_space().sample(random.Random(7)), exit_threshold=0.9)
    model = randomise(CompactBert(config.with_architecture(own)))
    torch.compiler.reset()  # the limit on recompilations holds for all networks of one class together
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        assert_same(compiled(**batch).logits, model(**batch).logits)


def test_every_readout_and_every_network_type_is_defined():
    assert READOUTS.keys() == set(get_args(Readout))
    assert AUTO_CLASSES.keys() == OUTPUT_NAMES.keys() == {"sequence_classifier", "token_classifier", "encoder"}


@pytest.mark.parametrize("name", named_architectures())
def test_counts_match_the_network_for_rare_architectures(config, name):
    _assert_counts_match(config.with_architecture(named_architectures()[name]))


def _assert_counts_match(config):
    model = randomise(CompactBert(config))
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    # The graph also has a few scalars and index vectors as constants, which are not counted.
    constants = sum(len(constant.raw_data) for constant in to_onnx(model).graph.initializer)
    assert stored_mb(config) * MB == pytest.approx(constants, abs=96 * (4 + 4 * len(model.layers)))


@KINDS
@OUTPUTS
def test_a_converted_teacher_computes_the_same_logits(teacher, batch):
    with torch.no_grad():
        expected = teacher(**batch).logits
        found = from_stock(teacher)(**batch).logits
    assert expected.std(dim=0).min() > 0.1
    assert_same(found, expected)


@KINDS
@OUTPUTS
def test_a_converted_teacher_can_be_converted_back_to_its_own_class(teacher, batch, tmp_path):
    model = from_stock(teacher)
    assert fits_stock(model)
    to_stock(model).save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is type(teacher)
    saved = again.config.to_diff_dict()
    assert {name: saved[name] for name in teacher.config.to_diff_dict()} == teacher.config.to_diff_dict()
    with torch.no_grad():
        assert_same(again(**batch).logits, teacher(**batch).logits)


@KINDS
def test_smaller_uniform_networks_can_be_converted_to_the_teachers_own_class(supernet_weights, batch):
    architecture = Architecture(16, (Layer(0, 2, 24), Layer(2, 2, 24)))
    model = BertSupernet(supernet_weights).extract(architecture)
    with torch.no_grad():
        assert_same(to_stock(model)(**batch).logits, model(**batch).logits)


def test_a_projection_between_equal_widths_does_not_fit_electras_own_class():
    config = compact_config(AutoConfig.for_model("electra", hidden_size=32, num_attention_heads=4, embedding_size=16))
    fits = [fits_stock(CompactBert(config.with_architecture(Architecture(8 * n, (Layer(0, n, 64),))))) for n in (1, 2)]
    assert fits_stock(CompactBert(config)) and fits == [True, False]


@KINDS
def test_a_text_can_have_as_many_tokens_as_there_are_positions(teacher, config):
    """The same is true of the family's own class, except that without a position table it accepts longer texts."""
    for model in (teacher, from_stock(teacher)):
        ids = torch.full((1, config.max_position_embeddings + 1), 5)
        assert model(input_ids=ids[:, 1:]).logits.shape == (1, 3)
        if model is teacher and not config.position_table:
            continue
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model(input_ids=ids)


@pytest.mark.parametrize(
    "layers",
    [
        (Layer(0, 2, 64),),
        (Layer(0, 4, 64), Layer(1, 4, 24)),
        (Layer(0, 4, 64, attention="int8"),),
    ],
)
def test_other_architectures_do_not_fit_the_teachers_own_class(config, layers):
    model = CompactBert(config.with_architecture(Architecture(32, layers)))
    assert not fits_stock(model)
    with pytest.raises(ExportError, match="export it as CompactBert"):
        to_stock(model)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("albert", {}, "model_type must be bert, roberta, .* or [a-z]+, but got 'albert'"),
        ("bert", {"hidden_act": "swish"}, "hidden_act must be gelu or .*'swish'"),
        ("distilbert", {"activation": "swish"}, "activation must be gelu or .*'swish'"),
        ("electra", {"position_embedding_type": "relative_key"}, "position_embedding_type must be absolute"),
        ("roberta", {"is_decoder": True}, "is_decoder must be False"),
        ("roberta", {"pad_token_id": None}, "pad_token_id must be a number"),
        ("distilbert", {"n_heads": 5}, "num_attention_heads must divide hidden_size, but got 5 and 768"),
    ],
)
def test_teachers_with_unsupported_settings_are_refused(family, settings, message):
    with pytest.raises(TeacherError, match=message):
        shape_of(AutoConfig.for_model(family, **settings))


@pytest.mark.parametrize("labels", [torch.tensor([0, 2, 1, 0, 1]), None])
def test_a_loss_is_computed_only_if_there_are_labels(supernet_weights, batch, labels):
    loss = supernet_weights(**batch, labels=labels).loss
    assert (loss is None) == (labels is None)


def test_a_graph_quantises_each_value_only_once():
    graph = GraphBuilder()
    first = graph.quantise_dynamically("x")
    assert graph.quantise_dynamically("x") == first != graph.quantise_dynamically("y")


def test_a_network_that_drops_tokens_does_not_fit_the_teachers_own_class(teacher):
    model = from_stock(teacher)
    first, *others = model.config.architecture.layers
    dropping = replace(model.config.architecture, layers=(replace(first, keep_tokens=2), *others))
    assert fits_stock(model) and not fits_stock(CompactBert(model.config.with_architecture(dropping)))
