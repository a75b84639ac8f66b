"""What every compression choice must do."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from nas.compression import BLOCKS, REGISTRY
from nas.compression.int8 import Int8
from nas.graph import GraphBuilder

CHOICES = pytest.mark.parametrize("choice", REGISTRY.values(), ids=REGISTRY)


def _serve(build, kind, shape, value):
    graph = GraphBuilder()
    source = graph.input("x", kind, shape)
    graph.output(build(graph, source), "y", ("a", "b", "c"))
    model = graph.model("one block")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    stored = sum(len(constant.raw_data) for constant in model.graph.initializer)
    return session.run(None, {"x": value})[0], stored


@CHOICES
def test_says_what_it_is_for(choice):
    assert choice.blocks and choice.blocks <= set(BLOCKS)
    assert choice.runtimes and choice.runtimes <= {"torch", "onnxruntime"}
    assert REGISTRY[choice.name] is choice


@CHOICES
def test_linear_is_served_as_simulated_and_stored_as_counted(choice):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 7, 12, generator=generator)
    weight, bias = torch.randn(20, 12, generator=generator), torch.randn(20, generator=generator)
    served, stored = _serve(
        lambda graph, name: choice.emit_linear(graph, name, weight.numpy(), bias.numpy()),
        TensorProto.FLOAT,
        ("a", "b", 12),
        x.numpy(),
    )
    np.testing.assert_allclose(served, choice.linear(x, weight, bias).numpy(), atol=1e-5)
    assert stored == choice.linear_bytes(20, 12)


@CHOICES
def test_embedding_is_served_as_simulated_and_stored_as_counted(choice):
    table, ids = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 29, 3]])
    served, stored = _serve(
        lambda graph, name: choice.emit_embed(graph, name, table.numpy()), TensorProto.INT64, ("a", "b"), ids.numpy()
    )
    np.testing.assert_allclose(served, choice.embed(ids, table).numpy(), atol=1e-6)
    assert stored == choice.table_bytes(30, 8)


@CHOICES
def test_is_differentiable_in_input_and_weights(choice):
    x = torch.randn(2, 5, 6, requires_grad=True)
    weight, bias = torch.randn(4, 6, requires_grad=True), torch.randn(4, requires_grad=True)
    choice.linear(x, weight, bias).square().sum().backward()
    for value in (x, weight, bias):
        assert value.grad is not None and value.grad.abs().sum() > 0


@CHOICES
def test_zeros_and_constants_do_no_harm(choice):
    x, weight, bias = torch.zeros(1, 3, 4), torch.zeros(5, 4), torch.ones(5)
    assert torch.equal(choice.linear(x, weight, bias), torch.ones(1, 3, 5))


def test_int8_keeps_at_most_255_values_a_row_and_its_error_within_half_a_step():
    table = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    found = Int8().embed(torch.tensor([[0, 1, 2]]), table)[0]
    step = table.abs().amax(dim=1) / 127
    for row in range(3):
        assert len(found[row].unique()) <= 255
        assert (found[row] - table[row]).abs().max() <= step[row] * 0.5001


def test_int8_quantises_each_text_by_itself():
    texts = torch.stack([torch.randn(6, 8), 100 * torch.randn(6, 8)])
    weight, bias = torch.randn(4, 8), torch.zeros(4)
    together = Int8().linear(texts, weight, bias)
    for number in range(2):
        torch.testing.assert_close(
            together[number : number + 1], Int8().linear(texts[number : number + 1], weight, bias)
        )
