"""The definition of a sub-network: counts, the way from and to stock BERT, saving and loading."""

from __future__ import annotations

import random

import pytest
import torch
from tiny import randomise
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from nas.errors import ExportError, TeacherError
from nas.graph import GraphBuilder
from nas.model import CompactBertForSequenceClassification
from nas.model.onnx import to_onnx
from nas.model.sizes import MB, count_parameters, stored_mb
from nas.model.stock import fits_stock, from_stock, shape_of, to_stock
from nas.space import Architecture, Layer

STOCK = BertConfig(
    vocab_size=90,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
    num_labels=3,
)


@pytest.mark.parametrize("seed", range(12))
def test_counted_parameters_and_bytes_are_the_real_ones(space, config, seed):
    config = config.with_architecture(space.sample(random.Random(seed)))
    model = randomise(CompactBertForSequenceClassification(config), seed)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    # Stored bytes are the constants of the graph: less its few scalars and index vectors.
    constants = sum(len(constant.raw_data) for constant in to_onnx(model).graph.initializer)
    assert stored_mb(config) * MB == pytest.approx(constants, abs=64 * (4 + 4 * len(model.layers)))


def test_teacher_keeps_its_function(batch):
    teacher = randomise(BertForSequenceClassification(STOCK))
    with torch.no_grad():
        expected = teacher(**batch).logits
        found = from_stock(teacher)(**batch).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_uniform_uncompressed_architectures_go_back_to_stock(batch, tmp_path):
    model = from_stock(randomise(BertForSequenceClassification(STOCK)))
    assert fits_stock(model.config)
    to_stock(model).save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is BertForSequenceClassification
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "layers",
    [
        (Layer(0, 2, 64),),
        (Layer(0, 4, 64), Layer(1, 4, 24)),
        (Layer(0, 4, 64, attention="int8"),),
    ],
)
def test_other_architectures_do_not_fit_stock(config, layers):
    model = CompactBertForSequenceClassification(config.with_architecture(Architecture(32, layers)))
    assert not fits_stock(model.config)
    with pytest.raises(ExportError, match="export it as CompactBert"):
        to_stock(model)


def test_teachers_of_other_families_and_activations_are_refused():
    with pytest.raises(TeacherError, match="hidden_act"):
        shape_of(BertConfig(hidden_act="swish"))
    roberta = BertConfig()
    roberta.model_type = "roberta"
    with pytest.raises(TeacherError, match="'roberta'"):
        shape_of(roberta)


@pytest.mark.parametrize("labels", [torch.tensor([0, 2, 1, 0, 1]), None])
def test_loss_is_only_computed_for_labels(supernet_weights, batch, labels):
    loss = supernet_weights(**batch, labels=labels).loss
    assert (loss is None) == (labels is None)


def test_graph_quantises_a_value_once():
    graph = GraphBuilder()
    first = graph.quantise_dynamically("x")
    assert graph.quantise_dynamically("x") == first != graph.quantise_dynamically("y")
