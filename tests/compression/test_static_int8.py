"""`static_int8`: ranges of activations are calibrated once, and all forms of a network quantise to the same ranges."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from tiny import TEACHERS, make_tokenizer
from tolerance import assert_same

from nas.architecture import LAYER_BLOCKS, compress_all
from nas.compression import compression
from nas.device import Device
from nas.errors import ExportError
from nas.export.artefact import served_files, write_artefact
from nas.export.verification import as_compact, reload_alone
from nas.graph import GraphBuilder
from nas.model import CompactBert
from nas.model.calibration import calibrate, lacks_calibration
from nas.model.onnx import to_onnx
from nas.runtimes import runtime_of
from nas.space import SearchSpace
from nas.supernet import BertSupernet

METHODS = ("static_int8", "static_int8(mean)")
RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture
def space() -> SearchSpace:
    """A space whose blocks are quantised statically, share weights or are left out, with tokens that are dropped."""
    values = SearchSpace.load("tiny").model_dump()
    methods = {
        "embedding": ["none", "static_int8"],
        **{block: ["none", *METHODS, "share", "skip"] for block in LAYER_BLOCKS},
    }
    dimensions = values["dimensions"] | {"keep_tokens": [2, 5]}
    return SearchSpace.model_validate(values | {"name": "static", "dimensions": dimensions, "compression": methods})


def _largest(space):
    """Return the largest architecture, with `static_int8` in all layers."""
    return replace(compress_all(space.largest(), "static_int8"), embedding="none")


def _served(folder, runtime, batch):
    pytest.importorskip(runtime)
    device = Device(name="cpu", runtime=runtime)
    file = served_files(folder, runtime)[0]
    return runtime_of(device).session(file, device)({name: value.numpy() for name, value in batch.items()})["logits"]


def test_a_range_covers_all_texts_or_is_the_mean_of_their_ranges():
    extremes = torch.tensor([[-1.0, 2.0], [-3.0, 2.5], [-2.0, 6.0]])
    assert compression("static_int8").range_of(extremes).tolist() == [-3.0, 6.0]
    assert compression("static_int8(mean)").range_of(extremes).tolist() == [-2.0, 3.5]


def test_inputs_are_rounded_to_256_levels_that_include_zero():
    """From -1 to 4, the step is 5 / 255 = 1 / 51, and 51 of the 255 steps lie below zero."""
    x = torch.tensor([[[-1.0, 0.0, 4.0, 0.9 / 51, 0.4 / 51, 10.6 / 51]]])
    found = compression("static_int8").quantised_inputs(x)
    assert_same(found * 51, [[[-51.0, 0.0, 204.0, 1.0, 0.0, 11.0]]])


def test_the_graph_has_one_range_per_layer_and_weights_from_minus_64_to_64():
    graph = GraphBuilder()
    source = graph.input("x", 1, ("a", "b", 2))
    arrays = {"weight": np.array([[0.5, -1.0], [2.0, 4.0]], dtype=np.float32)}
    arrays["input_range"] = np.array([-1.0, 4.0], dtype=np.float32)
    graph.output(compression("static_int8").emit_linear(graph, source, arrays, None), "y", ("a", "b", 2))
    model = graph.model("one layer").graph
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.initializer}
    nodes = {node.op_type: node for node in model.node}
    scale, zero_point = (constants[name] for name in nodes["QuantizeLinear"].input[1:])
    assert scale == pytest.approx(5 / 255) and zero_point == 51 and zero_point.dtype == np.uint8
    (weights,) = (value for value in constants.values() if value.dtype == np.int8)
    assert weights.tolist() == [[32, 32], [-64, 64]]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("seed", range(5))
def test_all_forms_of_a_calibrated_network_have_the_same_logits(
    space, supernet_weights, batch, tmp_path, seed, runtime
):
    """Calibrated on one batch, a network quantises this batch as the supernet does."""
    architecture = space.sample(random.Random(seed)) if seed else _largest(space)
    supernet = BertSupernet(supernet_weights)
    with torch.no_grad():
        active = supernet.run(architecture, **batch).logits
        extracted = supernet.extract(architecture)
        assert_same(extracted(**batch).logits, active, "int8")
        calibrate(extracted, [batch])
        write_artefact(extracted, make_tokenizer(), tmp_path, [runtime])
        expected = extracted(**batch).logits
        assert_same(expected, active, "int8")
        for reloaded in (as_compact(tmp_path), reload_alone(tmp_path)):
            assert torch.equal(reloaded(**batch).logits, expected)
    assert_same(_served(tmp_path, runtime, batch), expected, "int8")


@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_networks_of_every_family_are_calibrated(space, supernet_weights, batch, tmp_path):
    """Some have gated feed-forward blocks, norms before blocks, or a different attention."""
    model = BertSupernet(supernet_weights).extract(_largest(space))
    with torch.no_grad():
        active = model(**batch).logits
        calibrate(model, [batch])
        write_artefact(model, make_tokenizer(), tmp_path)
        assert_same(model(**batch).logits, active)
        assert_same(_served(tmp_path, "onnxruntime", batch), active, "int8")


def test_a_shared_attention_block_is_served_as_simulated(space, supernet_weights, batch, tmp_path):
    """The last layer needs the query of only the first token, so queries and keys of a shared block may differ."""
    largest = _largest(space)
    last = replace(largest.layers[-1], num_attention_heads=0, attention="share")
    model = BertSupernet(supernet_weights).extract(replace(largest, layers=(*largest.layers[:-1], last)))
    calibrate(model, [batch])
    write_artefact(model, make_tokenizer(), tmp_path)
    with torch.no_grad():
        assert_same(_served(tmp_path, "onnxruntime", batch), model(**batch).logits, "int8")


def test_calibration_uses_all_batches(space, supernet_weights, batch):
    model = BertSupernet(supernet_weights).extract(_largest(space))
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(1), slice(1, None))]
    found = []
    for batches in (halves, halves[::-1], halves[:1]):
        calibrate(model, batches)
        found.append(model.layers[0].attention.self.query.input_range)
    assert torch.equal(found[0], found[1])
    assert found[0][0] <= found[2][0] and found[0][1] >= found[2][1] and not torch.equal(found[0], found[2])


def test_a_network_without_ranges_is_not_exported_but_can_be_measured(space, supernet_weights, batch, tmp_path):
    model = BertSupernet(supernet_weights).extract(_largest(space))
    assert lacks_calibration(model)
    with pytest.raises(ExportError, match=r"export: .*: this network needs ranges of its activations, but has none"):
        write_artefact(model, make_tokenizer(), tmp_path / "export")
    assert not (tmp_path / "export").exists()
    operators = [node.op_type for node in to_onnx(model).graph.node]
    calibrate(model, [batch])
    assert not lacks_calibration(model)
    assert operators == [node.op_type for node in to_onnx(model).graph.node]


def test_networks_that_need_no_ranges_are_not_changed_by_calibration(space, supernet_weights, batch):
    model = BertSupernet(supernet_weights).extract(compress_all(space.largest(), "none"))
    calibrate(model, [batch])
    assert not model.config.calibrated and not dict(model.named_buffers())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_quantised_embeddings_need_no_ranges(space, supernet_weights, batch, tmp_path, runtime):
    architecture = replace(space.largest(), embedding="static_int8")
    model = BertSupernet(supernet_weights).extract(architecture)
    assert not lacks_calibration(model)
    write_artefact(model, make_tokenizer(), tmp_path, [runtime])
    with torch.no_grad():
        assert_same(_served(tmp_path, runtime, batch), model(**batch).logits)


def test_openvino_stores_a_quantised_table_in_8_bits(space, supernet_weights, tmp_path):
    pytest.importorskip("openvino")
    model = BertSupernet(supernet_weights).extract(replace(space.largest(), embedding="static_int8"))
    write_artefact(model, make_tokenizer(), tmp_path, ["openvino"])
    table = 4 * model.bert.embeddings.word_embeddings.weight.numel()
    floats = 4 * sum(parameter.numel() for parameter in model.parameters()) - table
    assert floats < served_files(tmp_path, "openvino")[-1].stat().st_size < floats + 0.5 * table


def test_a_sub_network_of_a_calibrated_network_is_not_calibrated(space, supernet_weights, batch):
    architecture = _largest(space)
    model = BertSupernet(supernet_weights).extract(architecture)
    calibrate(model, [batch])
    assert {buffer.shape for buffer in model.buffers()} == {(2,)}
    again = BertSupernet(model).extract(architecture)
    assert isinstance(again, CompactBert) and lacks_calibration(again)
