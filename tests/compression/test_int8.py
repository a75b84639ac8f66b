"""int8 gives the same results on every x86 processor, because no sum of two products exceeds 16 bits."""

from __future__ import annotations

import platform
import subprocess
import sys
from shutil import which

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from tolerance import assert_same

from nas.compression import INPUT_RANGE, REGISTRY, compression, formats_of, int8, text_extremes
from nas.compression.base import Calibrated
from nas.graph import GraphBuilder, save

PRODUCTS = [
    "int8",
    "static_int8",
    *(f"{choice.examples[0]}+int8" for choice in REGISTRY.values() if "int8" in formats_of(choice)),
]
COLUMNS, ROWS = 64, 48
EMULATOR = which("qemu-x86_64")
SERVE = """
import sys
import numpy
import onnxruntime

for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path + ".onnx", providers=["CPUExecutionProvider"])
    numpy.save(path + ".npy", session.run(None, {"x": numpy.load(path + "-x.npy")})[0])
"""


def _largest_values(spec: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return inputs and matrices in which nearly all values are the largest, so that sums are likely to saturate."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 7, COLUMNS, generator=generator)
    x[0, 1:4] = 1.0
    x[0, 0, 0] = -0.1
    matrices = {}
    for name, shape in compression(spec).matrices(ROWS, COLUMNS).items():
        matrices[name] = torch.where(torch.rand(shape, generator=generator) < 0.9, 1.0, -0.7)
    if isinstance(choice := compression(spec), Calibrated):
        matrices[INPUT_RANGE] = choice.range_of(text_extremes(x))
    return x, matrices


def _graph(spec: str, matrices: dict[str, torch.Tensor]) -> onnx.ModelProto:
    graph = GraphBuilder()
    source = graph.input("x", TensorProto.FLOAT, ("a", "b", COLUMNS))
    arrays = {name: value.numpy() for name, value in matrices.items()}
    graph.output(compression(spec).emit_linear(graph, source, arrays, None), "y", ("a", "b", ROWS))
    return graph.model("one layer")


def test_weights_are_small_enough_that_the_sum_of_two_products_fits_in_16_bits():
    _, matrices = _largest_values("int8")
    graph = _graph("int8", matrices).graph
    (product,) = (node for node in graph.node if node.op_type == "MatMulInteger")
    (weights,) = (numpy_helper.to_array(item) for item in graph.initializer if item.name == product.input[1])
    assert weights.dtype == np.int8 and np.abs(weights.astype(int)).max() * 2 * 255 <= np.iinfo(np.int16).max
    prepared = compression("int8").prepared(matrices)["weight"]
    assert torch.equal(prepared.unique(), torch.tensor([-0.703125, 1.0]))  # 45 of 64 levels, and all 64


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 processor")
@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-x86_64 from the package qemu-user")
def test_int8_is_served_as_simulated_on_a_processor_without_vnni(tmp_path, monkeypatch):
    """The processor is an emulated Haswell, which has only AVX2. With weights of full 8 bits, it saturates."""
    expected = {}
    for number, spec in enumerate(PRODUCTS):
        x, matrices = _largest_values(spec)
        save(_graph(spec, matrices), tmp_path / f"{number}.onnx")
        expected[number] = compression(spec).linear(x, matrices, None).numpy()
        np.save(tmp_path / f"{number}-x.npy", x.numpy())
    x, matrices = _largest_values("int8")
    monkeypatch.setattr(int8, "PRODUCT_LEVELS", 127)
    save(_graph("int8", matrices), tmp_path / "full.onnx")
    np.save(tmp_path / "full-x.npy", x.numpy())
    paths = [str(tmp_path / str(name)) for name in (*expected, "full")]
    subprocess.run([EMULATOR, "-cpu", "Haswell", sys.executable, "-c", SERVE, *paths], check=True, capture_output=True)
    for number, logits in expected.items():
        assert_same(np.load(tmp_path / f"{number}.npy"), logits, of=PRODUCTS[number])
    full = compression("int8").linear(x, matrices, None).numpy()
    assert np.abs(np.load(tmp_path / "full.npy") - full).max() > 0.1 * np.abs(full).max()
