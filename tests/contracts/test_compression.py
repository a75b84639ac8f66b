"""Every compression method fulfils the contract of `nas/compression/base.py`, and some have further properties."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from tolerance import NumberFormat, assert_same, is_same, slack

from nas.compression import BLOCKS, INPUT_RANGE, REGISTRY, MatrixCompression, compression, formats_of, text_extremes
from nas.compression.base import Calibrated
from nas.compression.int4 import Int4
from nas.compression.int8 import Int8
from nas.device import Device
from nas.graph import GraphBuilder
from nas.model.layers import BlockLinear
from nas.runtimes import RUNTIMES

SPECS = [
    spec
    for choice in REGISTRY.values()
    for example in choice.examples
    for spec in (example, *(f"{example}+{name}" for name in formats_of(choice) if name != "none"))
]
"""The examples of each method, in each format that the method supports."""
ALL = pytest.mark.parametrize("choice", [compression(spec) for spec in SPECS], ids=SPECS)
MATRIX = [compression(spec) for spec in SPECS if isinstance(compression(spec), MatrixCompression)]
LINEAR = pytest.mark.parametrize("choice", MATRIX, ids=lambda choice: choice.spec)
TABLES = pytest.mark.parametrize(
    "choice", [choice for choice in MATRIX if "embedding" in choice.blocks], ids=lambda choice: choice.spec
)
CALIBRATED = pytest.mark.parametrize(
    "choice", [choice for choice in MATRIX if choice.calibrated], ids=lambda choice: choice.spec
)
HELPERS = 150
"""The maximum number of bytes of constants that are not counted, because they do not grow with the block."""


def _serve(build, kind, shape, value, outputs=1):
    graph = GraphBuilder()
    source = graph.input("x", kind, shape)
    built = build(graph, source)
    for number, name in enumerate([built] if outputs == 1 else built):
        graph.output(name, f"y{number}", ("a", "b", f"c{number}"))
    model = graph.model("one block")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    stored = sum(len(constant.raw_data) for constant in model.graph.initializer)
    found = session.run(None, {"x": value})
    return (found[0] if outputs == 1 else found), stored


def _random(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _arrays(matrices):
    return {name: value.numpy() for name, value in matrices.items()}


def _calibrated(choice, matrices, x):
    """Return the arrays that an export receives, calibrated on the inputs `x` if the method requires it."""
    ranges = {INPUT_RANGE: choice.range_of(text_extremes(x))} if choice.calibrated else {}
    return _arrays(matrices | ranges)


@ALL
def test_blocks_runtimes_and_processors_are_valid(choice):
    assert choice.blocks and choice.blocks <= set(BLOCKS)
    assert choice.runtimes and set(choice.runtimes) <= RUNTIMES.keys()
    processors = get_args(Device.model_fields["processor"].annotation)
    assert any(choice.runs_on(name, processor) for name in choice.runtimes for processor in processors)
    assert choice.runs_on("onnxruntime", "cpu")  # this suite compares with it
    assert compression(choice.spec) == choice and choice.name in choice.names <= REGISTRY.keys()


def test_every_registered_method_is_tested():
    assert {compression(spec).name for spec in SPECS} == REGISTRY.keys()
    assert {"low_rank(4)+int8", "low_rank(6)+int4", "sparse(0.75)+int8"} < set(SPECS)


@LINEAR
def test_a_linear_layer_is_served_as_simulated_and_takes_the_counted_bytes(choice):
    x = torch.randn(1, 7, 12, generator=torch.Generator().manual_seed(1))
    matrices, bias = _random(choice.matrices(20, 12)), torch.randn(20)
    served, stored = _serve(
        lambda graph, name: choice.emit_linear(graph, name, _calibrated(choice, matrices, x), bias.numpy()),
        TensorProto.FLOAT,
        ("a", "b", 12),
        x.numpy(),
    )
    assert_same(served, choice.linear(x, matrices, bias))
    assert choice.linear_bytes(20, 12) <= stored <= choice.linear_bytes(20, 12) + HELPERS


@LINEAR
def test_a_batch_is_served_like_its_single_texts_unless_the_method_quantises_by_batch(choice):
    texts = _random({"x": (2, 7, 12)})["x"] * torch.tensor([1.0, 100.0])[:, None, None]
    linear = _calibrated(choice, _random(choice.matrices(20, 12)), texts)
    table = _arrays(_random(choice.matrices(30, 8)))
    table[choice.writes][:15] *= 100.0
    served = {
        "feed_forward": _alone_and_together(
            lambda graph, name: choice.emit_linear(graph, name, linear, None), TensorProto.FLOAT, texts, 12
        )
    }
    if "embedding" in choice.blocks:
        ids = torch.tensor([[1, 2, 3], [29, 28, 27]])
        served["embedding"] = _alone_and_together(
            lambda graph, name: choice.emit_embed(graph, name, table), TensorProto.INT64, ids
        )
    for block, (alone, together) in served.items():
        assert choice.quantises_by_batch(block) != is_same(together, alone), block
    assert choice.quantises_by_batch("attention") == choice.quantises_by_batch("feed_forward")


def _alone_and_together(build, kind, values, *features):
    alone, together = (
        np.concatenate([_serve(build, kind, ("a", "b", *features), part.numpy())[0] for part in values.split(size)])
        for size in (1, 2)
    )
    return alone, together


@LINEAR
def test_a_frozen_layer_gives_the_same_outputs_without_preparing_its_matrices_again(choice):
    """An evaluation quantises the matrices once and applies them many times."""
    layer, x = BlockLinear(12, 8, choice.spec, "feed_forward"), _random({"x": (2, 3, 12)})["x"]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        for name, value in _random(choice.matrices(8, 12)).items():
            getattr(layer, name).copy_(value)
        before = layer(x)
        layer.freeze()
        for kind in {type(choice), *(type(compression(name)) for name in formats_of(choice))}:
            patch.setattr(kind, "prepared", lambda *given: pytest.fail("the matrices are prepared again"))
        assert torch.equal(layer(x), before) and before.abs().min() > 0.0


@pytest.mark.parametrize(
    ("spec", "matrices", "expected"),
    [
        ("none", {"weight": [64.0, -31.75, 10.25, 0.25]}, {"weight": [64.0, -31.75, 10.25, 0.25]}),
        ("int8", {"weight": [64.0, -31.75, 10.25, 0.25]}, {"weight": [64.0, -32.0, 10.0, 0.0]}),
        ("int4", {"weight": [7.0, -3.75, 2.25, 0.25]}, {"weight": [7.0, -4.0, 2.0, 0.0]}),
        ("sparse(0.5)", {"weight": [64.0, -31.75, 10.25, 0.25]}, {"weight": [64.0, -31.75, 0.0, 0.0]}),
        ("sparse(0.5)+int8", {"weight": [64.0, -31.75, 10.25, 0.25]}, {"weight": [64.0, -32.0, 0.0, 0.0]}),
        ("sparse(2:4)+int8", {"weight": [0.25, -31.75, 10.25, 64.0]}, {"weight": [0.0, -32.0, 0.0, 64.0]}),
        (
            "low_rank(2)+int8",
            {"left": [64.0, 10.25], "right": [128.0, -31.75]},
            {"left": [64.0, 10.0], "right": [128.0, -32.0]},
        ),
    ],
)
def test_prepared_matrices_are_pruned_and_rounded(spec, matrices, expected):
    """The largest weight of a row has the largest integer: 64 in int8, and 7 in int4."""
    found = compression(spec).prepared({name: torch.tensor([row]) for name, row in matrices.items()})
    assert {name: matrix.tolist() for name, matrix in found.items()} == {name: [row] for name, row in expected.items()}


@LINEAR
def test_joined_layers_compute_the_same_as_separate_ones(choice):
    x = torch.randn(1, 7, 12, generator=torch.Generator().manual_seed(1))
    layers = [(_random(choice.matrices(8, 12), seed), torch.randn(8)) for seed in range(3)]
    served, _ = _serve(
        lambda graph, name: choice.emit_linears(
            graph, name, [(_calibrated(choice, matrices, x), bias.numpy()) for matrices, bias in layers]
        ),
        TensorProto.FLOAT,
        ("a", "b", 12),
        x.numpy(),
        outputs=3,
    )
    for found, (matrices, bias) in zip(served, layers, strict=True):
        assert_same(found, choice.linear(x, matrices, bias))


@LINEAR
def test_scaling_the_writing_matrix_scales_the_outputs(choice):
    """The factor is a power of two, so rounding does not differ."""
    x, matrices, bias = torch.randn(2, 3, 12), _random(choice.matrices(8, 12)), torch.randn(8)
    scaled = matrices | {choice.writes: matrices[choice.writes] * 0.5}
    assert_same(choice.linear(x, scaled, bias * 0.5), choice.linear(x, matrices, bias) * 0.5)


@LINEAR
def test_the_plain_form_is_linear_in_its_inputs(choice):
    x, matrices = torch.randn(2, 3, 12), _random(choice.matrices(8, 12))
    whole = choice.plain.linear(x, matrices, None)
    parts = (
        choice.plain.linear(x[..., part], matrices | {choice.reads: matrices[choice.reads][:, part]}, None)
        for part in (slice(5), slice(5, None))
    )
    assert_same(sum(parts), whole)


@TABLES
def test_an_embedding_table_is_served_as_simulated_and_takes_the_counted_bytes(choice):
    matrices, ids = _random(choice.matrices(30, 8)), torch.tensor([[1, 29, 3]])
    served, stored = _serve(
        lambda graph, name: choice.emit_embed(graph, name, _arrays(matrices)),
        TensorProto.INT64,
        ("a", "b"),
        ids.numpy(),
    )
    assert_same(served, choice.embed(ids, matrices))
    assert choice.table_bytes(30, 8) <= stored <= choice.table_bytes(30, 8) + HELPERS


@LINEAR
def test_gradients_reach_the_inputs_and_the_weights(choice):
    x = torch.randn(2, 5, 12, requires_grad=True)
    matrices, bias = _random(choice.matrices(8, 12)), torch.randn(8, requires_grad=True)
    values = (x, bias, *(value.requires_grad_() for value in matrices.values()))
    choice.linear(x, matrices, bias).square().sum().backward()
    for value in values:
        assert value.grad is not None and value.grad.abs().sum() > 0


@LINEAR
def test_a_layer_of_zeros_returns_its_bias(choice):
    matrices = {name: torch.zeros(shape) for name, shape in choice.matrices(8, 12).items()}
    assert torch.equal(choice.linear(torch.zeros(1, 3, 12), matrices, torch.ones(8)), torch.ones(1, 3, 8))


@LINEAR
def test_half_precision_differs_only_by_its_rounding_errors(choice):
    """Some rows are zeros, whose quantisation scale is too small for half precision."""
    formats: dict[torch.dtype, NumberFormat] = {torch.float16: "float16", torch.bfloat16: "bf16"}
    for dtype, number_format in formats.items():
        matrices = {name: value.to(dtype) for name, value in _random(choice.matrices(20, 64)).items()}
        x = _random({"x": (2, 7, 64)})["x"].to(dtype)
        matrices[choice.writes][3] = x[1, 2:] = 0.0
        exact = {name: value.float() for name, value in matrices.items()}
        found = {"linear": (choice.linear(x, matrices, None), choice.linear(x.float(), exact, None))}
        if "embedding" in choice.blocks:
            ids = torch.tensor([[3, 4, 3], [3, 3, 3]])
            found["embed"] = choice.embed(ids, matrices), choice.embed(ids, exact)
        for half, expected in found.values():
            assert half.dtype == dtype and (half[1, 2:] == 0).all()
            # A value in the middle between two of the 255 levels may be rounded to either of them.
            allowed = max(slack(expected, name) for name in (number_format, "int8"))
            assert (half.float() - expected).abs().max() <= allowed


@LINEAR
def test_the_matrices_of_a_smaller_layer_fit_into_those_of_a_larger_one(choice):
    large = choice.matrices(20, 16)
    for name, shape in choice.matrices(12, 8).items():
        assert shape[0] <= large[name][0] and shape[1] <= large[name][1]


@ALL
def test_only_calibrated_methods_need_ranges(choice):
    assert choice.calibrated == isinstance(choice, Calibrated)


@CALIBRATED
def test_a_calibrated_layer_quantises_a_text_in_the_same_way_beside_any_other(choice):
    """Before calibration, the range depends on the batch, as if the layer were calibrated on that batch."""
    texts = _random({"x": (2, 7, 12)})["x"] * torch.tensor([1.0, 100.0])[:, None, None]
    matrices = _random(choice.matrices(20, 12))
    calibrated = matrices | {INPUT_RANGE: choice.range_of(text_extremes(texts))}
    together, alone = choice.linear(texts, calibrated, None), choice.linear(texts[:1], calibrated, None)
    assert_same(together[:1], alone)
    assert torch.equal(choice.linear(texts, matrices, None), together)
    assert not is_same(choice.linear(texts[:1], matrices, None), alone)


@CALIBRATED
def test_values_outside_the_calibrated_range_are_clipped(choice):
    x, limits = torch.tensor([[[-9.0, -2.0, 0.0, 3.0, 9.0]]]), torch.tensor([-2.0, 3.0])
    assert_same(choice.quantised_within(x, limits), [[[-2.0, -2.0, 0.0, 3.0, 3.0]]])


@CALIBRATED
def test_a_layer_without_a_range_is_written_with_the_operators_of_a_calibrated_one(choice):
    """Its latency is measured before it is calibrated."""
    operators = []
    for x in (None, torch.randn(1, 7, 12)):
        matrices, graph = _random(choice.matrices(20, 12)), GraphBuilder()
        source = graph.input("x", TensorProto.FLOAT, ("a", "b", 12))
        arrays = _arrays(matrices) if x is None else _calibrated(choice, matrices, x)
        graph.output(choice.emit_linear(graph, source, arrays, None), "y", ("a", "b", 20))
        operators.append([node.op_type for node in graph.model("one layer").graph.node])
    assert operators[0] == operators[1]


def test_int8_has_at_most_255_values_per_row_and_errors_of_at_most_half_a_step():
    table = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    found = Int8().embed(torch.tensor([[0, 1, 2]]), {"weight": table})[0]
    step = table.abs().amax(dim=1) / 127
    for row in range(3):
        assert len(found[row].unique()) <= 255
        assert (found[row] - table[row]).abs().max() <= step[row] * 0.5001


def test_int8_quantises_each_text_separately():
    texts = torch.stack([torch.randn(6, 8), 100 * torch.randn(6, 8)])
    matrices, bias = {"weight": torch.randn(4, 8)}, torch.zeros(4)
    together = Int8().linear(texts, matrices, bias)
    for number in range(2):
        alone = Int8().linear(texts[number : number + 1], matrices, bias)
        assert_same(together[number : number + 1], alone)


def test_int4_has_a_scale_for_every_32_weights_of_a_row():
    table = torch.randn(2, 96, generator=torch.Generator().manual_seed(0))
    table[:, 32:64] *= 100
    found = Int4().embed(torch.tensor([[0, 1]]), {"weight": table})[0]
    step = table.unflatten(1, (3, 32)).abs().amax(dim=2, keepdim=True) / 7
    assert ((found - table).unflatten(1, (3, 32)).abs() <= step * 0.5001).all()
    assert all(len(found[0, part : part + 32].unique()) <= 15 for part in (0, 32, 64))


@pytest.mark.parametrize(("spec", "kept"), [("sparse(0.5)", 6), ("sparse(0.75)", 3), ("sparse(2:4)", 6)])
def test_sparse_keeps_the_largest_weights_of_each_row(spec, kept):
    choice, weight = compression(spec), torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    found = choice.linear(torch.eye(12)[None], {"weight": weight}, None)[0].T
    assert ((found != 0).sum(dim=1) == kept).all()
    assert torch.equal(found[found != 0], weight[found != 0])
    groups, own = (found.unflatten(1, (3, 4)), weight.unflatten(1, (3, 4))) if "2:4" in spec else (found, weight)
    smallest = groups.abs().masked_fill(groups == 0, 9.0).amin(dim=-1)
    assert (own.abs().masked_fill(groups != 0, 0.0).amax(dim=-1) <= smallest).all()


def test_low_rank_starts_with_the_least_possible_error_on_the_inputs_and_ranks_are_nested():
    """The least error of any matrices of a rank follows from the singular values of the outputs (Eckart and Young)."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    weight = torch.randn(20, 12, generator=generator)
    outputs = inputs @ weight.T
    moment = outputs.double().T @ outputs.double() / len(outputs)
    largest = compression("low_rank(8)").start_linear(weight, moment)
    for rank in (2, 5, 8):
        choice = compression(f"low_rank({rank})")
        start = choice.start_linear(weight, moment)
        assert_same(start["left"], largest["left"][:, :rank])
        assert_same(start["right"], largest["right"][:rank])
        error = (choice.linear(inputs[None], start, None)[0] - outputs).square().sum()
        least = torch.linalg.svdvals(outputs)[rank:].square().sum()
        # Outputs are up to a thousand times larger than their errors, so rounding affects the errors that much more.
        assert error == pytest.approx(float(least), rel=1e-3)


def test_low_rank_reproduces_a_table_of_that_rank_exactly():
    table = torch.randn(30, 3) @ torch.randn(3, 8)
    choice = compression("low_rank(3)")
    start = choice.start_table(table, table.double().T @ table.double())
    ids = torch.arange(30)[None]
    assert_same(choice.embed(ids, start)[0], table)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("int9", "is not a compression method; use one of none, int8"),
        ("int8(3)", "accepts no parameter, but got '3'; write int8"),
        ("int8+int4", "cannot be combined with a format, but got 'int4'"),
        ("share+int8", "cannot be combined with a format"),
        ("static_int8(minmax)", "accepts only the parameter mean, but got 'minmax'; write static_int8 \\(the range of"),
        ("low_rank(8)+static_int8", "stored only in one of the formats none, int8, .*, but got 'static_int8'"),
        ("low_rank", "needs a rank of at least 1, such as low_rank\\(64\\), but got ''"),
        ("low_rank(0)", "needs a rank of at least 1"),
        ("low_rank(064)", "written in its standard form, but got 'low_rank\\(064\\)'; write 'low_rank\\(64\\)'"),
        (
            "low_rank(8)+low_rank(4)",
            "stored only in one of the formats none, int8, .*, but got 'low_rank\\(4\\)'; use one",
        ),
        ("low_rank(8)+skip", "stored only in one of the formats none, int8, .*, but got 'skip'"),
        ("sparse(1.5)", "share of zeros between 0 and 1"),
        ("sparse(0.5)+int4", "stored only in one of the formats none, int8, but got 'int4'"),
    ],
)
def test_an_invalid_method_is_refused_with_rule_and_remedy(spec, rule):
    with pytest.raises(ValueError, match=rule):
        compression(spec)
