"""Devices and budgets: their validation, device files, and the documentation of both."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from nas.budget import COST_METRICS, Budget
from nas.device import Device
from nas.study import Study

ROOT = Path(__file__).parents[1]


def test_lengths_can_be_given_with_their_frequencies():
    device = Device(name="cpu", sequence_length={"16": 3, "64": 1})
    assert device.lengths == (16, 16, 16, 64) and device.lengths_in_words == "16 or 64 tokens"
    assert Device(**device.model_dump(mode="json")) == device


def test_a_study_can_read_a_device_from_a_file_and_override_its_settings(tiny_study):
    (tiny_study.parent / "phone.toml").write_text('runtime = "onnxruntime"\nthreads = 2\nsequence_length = 16\n')
    text = tiny_study.read_text().replace('name = "cpu"', 'name = "cpu"\nfile = "phone.toml"')
    tiny_study.write_text(text)
    (device,) = Study.load(tiny_study).devices
    assert device.threads == 2 and device.sequence_length == 32  # the setting of the study overrides the file


def test_a_budget_can_have_limits_on_several_devices():
    limits = [{"device": "a", "p50_ms": "20%"}, {"device": "b", "p95_ms": 4.0, "size_mb": 20.0}]
    budget = Budget(name="both", limits=limits)
    assert budget.devices == ("a", "b") and budget.device == "a"
    assert budget.on("b").given == {"p95_ms": 4.0, "size_mb": 20.0} and budget.on("c") is None
    assert Budget(**budget.model_dump(mode="json")) == budget
    assert Budget(name="one", device="a", p50_ms=3.0).limits == (Budget(name="x", device="a", p50_ms=3.0).on("a"),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runtime": "openvino", "processor": "cuda"}, "openvino is supported only on the cpu"),
        ({"runtime": "onnxruntime", "number_format": "bfloat16"}, "supports only float32"),
        ({"runtime": "torch", "number_format": "float16"}, "float32 and bfloat16"),
        ({"runtime": "onnxruntime", "compiled": True}, "only torch compiles"),
        ({"runtime": "torch", "where": "elsewhere"}, "runtime: must be onnxruntime if where = 'elsewhere'"),
        ({"threads": 2, "pin_to": [1]}, "2 threads need at least as many cores"),
        ({"pin_to": [1, 1]}, "each core may occur only once"),
        ({"sequence_length": "task", "batch_size": 8}, "must be 1 if sequence_length is 'task'"),
        ({"sequence_length": {"16": 60, "32": 60}}, "at most 64"),
    ],
)
def test_an_invalid_device_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Device(name="cpu", **settings)


def test_the_documentation_shows_every_device_setting_with_its_default():
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "devices.md").read_text(), re.DOTALL)
    examples = [tomllib.loads(block) for block in blocks]
    (device,) = examples[0]["devices"]
    assert Device(**device) == Device(name=device["name"])
    assert set(device) == set(Device.model_fields)
    (budget,) = examples[1]["budgets"]
    assert Budget(**budget).devices == ("server", "phone")


def test_every_metric_that_a_budget_can_limit_is_documented():
    text = (ROOT / "docs" / "devices.md").read_text()
    assert all(f"`{name}`" in text for name in COST_METRICS)
