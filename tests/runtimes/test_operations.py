"""The compression methods that each runtime executes on each processor."""

from __future__ import annotations

import pytest

from nas.compression import compression, eight_bit_method
from nas.runtimes import RUNTIMES, runtimes_for

EXECUTED = {
    ("onnxruntime", "cpu"): {"none", "low_rank(4)", "share", "skip", "sparse(0.5)", "int4", "int8", "static_int8"},
    ("onnxruntime", "cuda"): {"none", "low_rank(4)", "share", "skip", "sparse(0.5)", "int4"},
    ("openvino", "cpu"): {"none", "low_rank(4)", "share", "skip", "static_int8"},
    ("torch", "cpu"): {"none", "low_rank(4)", "share", "skip"},
    ("torch", "cuda"): {"none", "low_rank(4)", "share", "skip"},
}
METHODS = set.union(*EXECUTED.values())


def test_the_table_has_every_runtime_and_processor():
    assert EXECUTED.keys() == {(name, key) for name, each in RUNTIMES.items() for key in each.number_formats}


@pytest.mark.parametrize("device", EXECUTED, ids=" on ".join)
def test_a_runtime_executes_the_methods_whose_operations_it_has(device):
    assert {spec for spec in METHODS if compression(spec).runs_on(*device)} == EXECUTED[device]


def test_a_method_with_a_format_needs_the_operations_of_both():
    assert compression("low_rank(4)+int8").operations == {"dynamic_int8"}
    assert compression("sparse(0.5)+int8").operations == {"dynamic_int8", "packed_weights"}
    assert not compression("sparse(0.5)+int8").runs_on("onnxruntime", "cuda")


def test_no_runtime_executes_anything_on_a_processor_that_it_does_not_support():
    assert not compression("none").runs_on("openvino", "cuda")


def test_the_8_bit_method_of_each_device():
    found = {device: eight_bit_method(*device) for device in EXECUTED}
    assert {device: method for device, method in found.items() if method} == {
        ("onnxruntime", "cpu"): "int8",
        ("openvino", "cpu"): "static_int8",
    }


def test_early_exits_run_only_in_onnx_runtime():
    assert runtimes_for(["early_exits"]) == ["onnxruntime"]
