"""Token classifiers and text encoders give the same outputs in all their forms, like text classifiers."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TEACHERS, make_tokenizer, mixed_space, randomise
from tolerance import assert_same
from transformers import AutoConfig

from nas.architecture import compress_all
from nas.data.batches import Batch
from nas.evaluate.accuracy import predict
from nas.evaluate.shared import SharedStates
from nas.export.artefact import ONNX_FILE, write_artefact
from nas.export.verification import as_compact, reload, reload_alone
from nas.form import OUTPUT_NAMES, NetworkForm
from nas.latency.profile import stages
from nas.model import CompactBert
from nas.model.onnx import to_onnx
from nas.model.sizes import MB, count_parameters, stored_mb
from nas.model.stock import AUTO_CLASSES, compact_config, fits_stock, from_stock
from nas.runtimes.runner import onnx_session
from nas.space import SearchSpace
from nas.supernet import BertSupernet, SupernetWeights
from nas.supernet.importance import magnitude, measure_importance, reorder

FORMS = [
    NetworkForm("token_classifier", "every"),
    NetworkForm("encoder", "mean"),
    NetworkForm("encoder", "first", normalize=True),
    NetworkForm("encoder", "mean", normalize=True, own_width=True),
    NetworkForm("encoder", "first", normalize=True, projection_dim=24, projection_act="tanh"),
]
pytestmark = [
    pytest.mark.parametrize("teacher_kind", TEACHERS),
    pytest.mark.parametrize(
        "form",
        FORMS,
        ids=lambda form: " ".join(
            [
                form.network_type,
                form.readout,
                *["own width"] * form.own_width,
                *["projected"] * (form.projection_dim is not None),
            ]
        ),
    ),
]


@pytest.fixture
def space() -> SearchSpace:
    """A space with every compression method, but without dropped tokens and early exits, as all tokens are read."""
    space = mixed_space()
    dimensions = space.dimensions.model_copy(update={"keep_tokens": (), "exit_threshold": ()})
    return space.model_copy(update={"dimensions": dimensions})


@pytest.fixture
def teacher(teacher_kind: str, form: NetworkForm, outputs: int) -> Any:
    family, settings = TEACHERS[teacher_kind]
    settings = {"vocab_size": 90, "max_position_embeddings": 40, "num_labels": outputs} | settings
    return randomise(AUTO_CLASSES[form.network_type].from_config(AutoConfig.for_model(family, **settings)))


@pytest.fixture
def config(teacher, form):
    return compact_config(teacher.config, form)


@pytest.fixture
def projection(form) -> torch.nn.Linear | None:
    """The teacher's own projection from 32 hidden units, if it has one."""
    return None if form.projection_dim is None else randomise(torch.nn.Linear(32, form.projection_dim), seed=4)


@pytest.fixture
def weights(teacher, form, projection, space) -> SupernetWeights:
    weights = SupernetWeights.of(from_stock(teacher, form, projection), space.dimensions.hidden_size, space.compression)
    randomise(weights.narrow, seed=1, scale=0.1)
    if weights.classifier is not None:
        randomise(weights.classifier, seed=3)
    return weights


def expected_outputs(
    teacher: Any, batch: dict[str, torch.Tensor], form: NetworkForm, projection: torch.nn.Linear | None
) -> torch.Tensor:
    """Return the logits of every token, or the embedding of each text."""
    output = teacher(**batch)
    if form.readout == "every":
        return output.logits
    states, mask = output.last_hidden_state, batch["attention_mask"].bool()
    means = torch.stack([state[real].mean(dim=0) for state, real in zip(states, mask, strict=True)])
    found = means if form.readout == "mean" else states[:, 0]
    found = found if projection is None else torch.tanh(found @ projection.weight.T + projection.bias)
    return found / found.norm(dim=-1, keepdim=True) if form.normalize else found


def compared_outputs(batch: dict[str, torch.Tensor], form: NetworkForm) -> Any:
    """Return the index of the outputs to compare. It omits padding, whose positions differ in RoBERTa's own class."""
    return batch["attention_mask"].bool() if form.readout == "every" else slice(None)


def test_the_compact_form_of_a_teacher_gives_the_same_outputs(teacher, batch, form, projection):
    with torch.no_grad():
        expected, model = expected_outputs(teacher, batch, form, projection), from_stock(teacher, form, projection)
        real = compared_outputs(batch, form)
        assert_same(model(**batch).logits[real], expected[real])
        unpadded = {name: value[:1] for name, value in batch.items()}
        assert_same(model(**unpadded).logits, expected[:1])


def test_a_float_network_gives_the_same_outputs_in_all_its_forms(weights, space, batch, form, tmp_path):
    floats = {"none", "low_rank(4)", "low_rank(8)", "share", "skip"}
    others = {name for block in space.compression for name in block[1]} - floats
    architecture = space.excluding(tuple(others)).sample(random.Random(0))
    supernet, real, folder = BertSupernet(weights), compared_outputs(batch, form), tmp_path / "export"
    with torch.no_grad():
        active = supernet.run(architecture, **batch).logits
        extracted = supernet.extract(architecture)
        assert_same(extracted(**batch).logits, active)
        write_artefact(extracted, make_tokenizer(), folder)
        for loaded in (reload, reload_alone, as_compact):
            assert_same(loaded(folder)(**batch).logits[real], active[real])
    fed = {name: value.numpy() for name, value in batch.items()}
    (served,) = onnx_session(str(folder / ONNX_FILE), 1).run([OUTPUT_NAMES[form.network_type]], fed)
    assert_same(served, active)


def test_a_network_that_fits_the_teachers_class_is_exported_in_it(weights, space, batch, form, teacher, tmp_path):
    extracted = BertSupernet(weights).extract(space.largest())
    write_artefact(extracted, make_tokenizer(), tmp_path / "export")
    loaded, real = reload(tmp_path / "export"), compared_outputs(batch, form)
    assert fits_stock(extracted) == (type(getattr(loaded, "encoder", loaded)) is type(teacher))
    with torch.no_grad():
        for model in (loaded, as_compact(tmp_path / "export")):
            assert_same(model(**batch).logits[real], extracted(**batch).logits[real])


def test_counted_parameters_and_bytes_match_the_model_and_its_onnx_graph(config, space):
    for seed in range(3):
        own = config.with_architecture(space.sample(random.Random(seed)))
        model = randomise(CompactBert(own))
        assert count_parameters(own) == sum(parameter.numel() for parameter in model.parameters())
        constants = sum(len(constant.raw_data) for constant in to_onnx(model).graph.initializer)
        assert stored_mb(own) * MB == pytest.approx(constants, abs=96 * (4 + 4 * len(model.layers)))


def test_the_width_of_an_encoder_s_outputs_is_the_teachers_or_the_hidden_size(weights, space, batch, form):
    for hidden in space.dimensions.hidden_size:
        model = BertSupernet(weights).extract(replace(space.largest(), hidden_size=hidden))
        teachers_width = form.projection_dim or 32
        width = model.config.num_labels if form.network_type != "encoder" else teachers_width
        width = hidden if form.own_width else width
        with torch.no_grad():
            assert model(**batch).logits.shape[-1] == width == model.config.outputs
        last_layer = [] if form.own_width else [(width, hidden), (width,)]
        head = {name: value for name, value in model.state_dict().items() if name.startswith("classifier")}
        assert [tuple(value.shape) for value in head.values()] == last_layer


def test_reordering_units_does_not_change_the_outputs(weights, batch, form):
    """If the outputs are hidden units, they come in the new order, which changes no similarity between texts."""
    labels = {"labels": batch["input_ids"] % weights.config.outputs} if form.readout == "every" else {}
    with torch.no_grad():
        before = weights(**batch).logits
    for importance in (measure_importance(weights, [batch | labels]), magnitude(weights)):
        reorder(weights, importance)
        with torch.no_grad():
            after = weights(**batch).logits
        if form.own_width:
            assert_same(after @ after.T, before @ before.T)
            assert_same(after.sort(dim=1).values, before.sort(dim=1).values)
        else:
            assert_same(after, before)


def test_batches_without_padding_and_shared_states_give_the_same_outputs(weights, space, batch, form):
    """Candidates are evaluated like this: on texts of one length, without a mask, and with layers computed earlier."""
    supernet, states = BertSupernet(weights), SharedStates()
    first = space.largest()
    for architecture in (first, compress_all(first, "low_rank(4)"), first):
        model = supernet.extract(architecture)
        states.begin(architecture)
        ids = batch["input_ids"][:1]
        types = {"token_type_ids": torch.zeros_like(ids)} if "token_type_ids" in batch else {}
        with torch.no_grad():
            hidden = states.run(model, 0, Batch(np.arange(1), {"input_ids": ids, **types}))
            assert_same(model.classify(hidden), model(ids, torch.ones_like(ids), **types).logits)


def test_only_networks_that_read_the_first_token_compute_it_alone_in_a_layer(space, config, form):
    parts = [part for stage in stages(space.largest(), 8, config.readout) for part, _ in stage]
    assert any(part.startswith("first_") for part in parts) == (form.readout == "first")


def test_outputs_of_batches_of_different_lengths_are_combined_in_the_order_of_rows(form, weights):
    model = BertSupernet(weights).extract(weights.config.architecture)
    ids = torch.randint(4, 90, (3, 9), generator=torch.Generator().manual_seed(2))
    batches = [Batch(np.array([2, 0]), {"input_ids": ids[[2, 0]]}), Batch(np.array([1]), {"input_ids": ids[1:2, :6]})]
    with torch.no_grad():
        found = predict(lambda part: model(**part.inputs).logits.numpy(), batches)
        assert_same(found[[0, 2]], model(ids[[0, 2]]).logits)
        alone = model(ids[1:2, :6]).logits[0]
    assert_same(found[1, :6] if form.readout == "every" else found[1], alone)
    assert form.readout != "every" or not found[1, 6:].any()
