"""Profiles: the fit, the error, the JSON form."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nas.errors import DeviceError
from nas.latency.profile import Profile, _fit, _keys, _line, _whole_architectures, build_profile
from nas.latency.record import LatencyRecord, error_of
from nas.study import Device

DEVICE = Device(name="cpu", sequence_length=16)


def _record(value):
    return LatencyRecord((value,) * 5, DEVICE, {"runtime": "onnxruntime"}, "now")


def test_percentiles_of_a_record():
    record = LatencyRecord(tuple(float(value) for value in range(1, 101)), DEVICE, {}, "now")
    assert (record.p50_ms, record.p95_ms) == (50.5, pytest.approx(95.05))
    assert record.spread == pytest.approx(49.5 / 50.5)
    assert "samples_ms" not in record.summary() and len(record.to_json()["samples_ms"]) == 100


def test_error_of_predictions():
    assert error_of([1.0, 2.2, 3.0], [1.0, 2.0, 4.0]) == {
        "mape": pytest.approx((0 + 0.1 + 0.25) / 3, abs=1e-4),
        "worst": 0.25,
        "kendall_tau": 1.0,
        "networks": 3,
    }


def test_line_is_found_again():
    sums = np.array([1.0, 2.0, 5.0])
    assert _line(list(sums), list(0.3 + 1.2 * sums)) == (pytest.approx(0.3), pytest.approx(1.2))


def test_a_device_that_adds_up_is_predicted_exactly(space):
    """Whole sub-networks that cost 0.2 ms plus 1.1 times their blocks: the fit must find that, error zero."""
    rng = random.Random(0)
    chosen = _whole_architectures(space, 0)
    table = {key: rng.uniform(0.1, 1.0) for architecture in chosen.values() for key in _keys(architecture)}
    whole = {
        name: _record(0.2 + 1.1 * sum(table[key] for key in _keys(architecture)))
        for name, architecture in chosen.items()
    }
    profile = _fit(DEVICE, "digest", table, chosen, whole)
    assert (profile.offset_ms, profile.slope) == (pytest.approx(0.2, abs=1e-3), pytest.approx(1.1, abs=1e-3))
    assert profile.error["mape"] < 1e-3 and profile.error["networks"] == 24
    assert profile.error["kendall_tau"] == pytest.approx(1.0)


def test_held_out_networks_are_not_fitted(space):
    chosen = _whole_architectures(space, 0)
    assert sum(name.startswith("held_out") for name in chosen) == 24
    table = {key: 1.0 for architecture in chosen.values() for key in _keys(architecture)}

    def whole(held_out_ms):
        return {
            name: _record(held_out_ms if name.startswith("held_out") else sum(1.0 for _ in _keys(architecture)))
            for name, architecture in chosen.items()
        }

    first, second = (_fit(DEVICE, "", table, chosen, whole(value)) for value in (3.0, 30.0))
    assert (first.offset_ms, first.slope) == (second.offset_ms, second.slope)
    assert first.error["mape"] != second.error["mape"]


@pytest.mark.slow
def test_a_real_profile_covers_the_space_and_survives_the_disk(space, config, tmp_path):
    profile = build_profile(DEVICE, space, config, seed=0)
    rng = random.Random(0)
    for _ in range(50):
        assert profile.predict_ms(space.sample(rng)) > 0
    assert profile.smallest_p50_ms < profile.teacher_p50_ms
    assert profile.predict_ms(space.smallest()) < profile.predict_ms(space.largest())
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == profile


def test_what_is_no_profile_is_refused(tmp_path):
    (tmp_path / "profile.json").write_text('{"device": {"name": "cpu"}}')
    with pytest.raises(DeviceError, match="not a profile"):
        Profile.load(tmp_path / "profile.json")
