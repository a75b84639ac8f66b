"""Latency profiles: the fit, predictions and their error, the measurement, and the JSON form."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from tiny import mixed_space

from nas.architecture import Architecture, Layer
from nas.device import Device
from nas.errors import DeviceError
from nas.latency.measure import REFERENCE, grouped, records_of
from nas.latency.profile import Fit, PartSums, Profile, part_sums, stages, weighted_quantile
from nas.latency.profiling import ProfileRecipe, build_profile, fitted
from nas.latency.record import LatencyRecord, error_of
from nas.model import CompactBertConfig
from nas.model.sizes import Sizes, stored_mb
from nas.space import SearchSpace

DEVICE = Device(name="cpu", sequence_length=16)


def _record(value):
    return LatencyRecord((value,) * 5, DEVICE, {"runtime": "onnxruntime"}, "now")


def _parts(architecture, length):
    return [part for stage in stages(architecture, length) for part in stage]


def _table(sub_networks, cost):
    parts = {part for architecture in sub_networks.values() for part, _ in _parts(architecture, 16)}
    return {part: {"16": cost()} for part in sorted(parts)}


def _chains(table):
    """Return records of block chains that have the latencies of the table per block."""
    copies = {part: 1 if part.startswith("ends") else 4 for part in table}
    return {f"{part}@{at}": _record(value * copies[part]) for part, own in table.items() for at, value in own.items()}


def test_a_record_has_percentiles_and_a_summary_without_samples():
    record = LatencyRecord(tuple(float(value) for value in range(1, 101)), DEVICE, {}, "now")
    assert (record.p50_ms, record.p95_ms) == (50.5, pytest.approx(95.05))
    assert "samples_ms" not in record.summary() and len(record.to_json()["samples_ms"]) == 100


def test_the_prediction_error_has_its_mean_its_maximum_and_a_rank_correlation():
    assert error_of([1.0, 2.2, 3.0], [1.0, 2.0, 4.0]) == {
        "mape": pytest.approx((0 + 0.1 + 0.25) / 3, abs=1e-4),
        "worst": 0.25,
        "kendall_tau": 1.0,
        "networks": 3,
    }


def test_the_fit_recovers_offset_and_slopes():
    parts = [PartSums(inner, outer) for inner in (0.0, 1.0, 2.0, 5.0, 7.0) for outer in (0.2, 1.0)]
    fit = fitted(parts, [0.3 + 1.2 * part.inner_ms + 1.1 * part.outer_ms for part in parts])
    assert (fit.offset_ms, fit.inner, fit.outer) == pytest.approx((0.3, 1.2, 1.1), rel=0.01)
    assert fit.at(PartSums(1.0, 0.8)) == pytest.approx(0.3 + 1.2 + 0.88, rel=2e-3)


def test_the_fit_recovers_the_bend():
    """Up to the mean of the sums (3.6 ms), the slope is larger by 0.2. At 10 ms, a straight line would be 6 % off."""
    parts = [PartSums(inner, outer) for inner in (0.0, 1.0, 2.0, 5.0, 7.0) for outer in (0.2, 1.0)]
    fit = fitted(parts, [0.1 + 1.1 * part.ms + 0.2 * min(part.ms, 3.6) for part in parts])
    assert fit.knee_ms == pytest.approx(3.6) and fit.bend == pytest.approx(0.2, abs=0.02)
    for part in (PartSums(0.0, 0.5), PartSums(3.0, 0.6), PartSums(9.0, 1.0)):
        assert fit.at(part) == pytest.approx(0.1 + 1.1 * part.ms + 0.2 * min(part.ms, 3.6), rel=0.01)


def test_noise_does_not_separate_the_slopes():
    """All networks have nearly the same ratio of inner to outer parts, so noise of 0.5 % could change the slopes."""
    rng = np.random.default_rng(0)
    parts = [
        PartSums(ms * (1.0 - share), ms * share) for ms in (0.5, 1.0, 2.0, 5.0, 7.0) for share in [0.2 + 0.001 * ms]
    ]
    fit = fitted(parts, [part.ms * rng.normal(1.2, 0.005) for part in parts])
    assert abs(fit.inner - fit.outer) < 0.2 and fit.at(PartSums(0.0, 3.0)) == pytest.approx(3.6, rel=0.1)


def test_only_a_factor_is_fitted_if_the_sums_hardly_differ():
    """A line through such sums would follow their noise."""
    fit = fitted([PartSums(4.0, 1.0), PartSums(4.5, 0.6), PartSums(5.0, 0.2)], [6.6, 6.0, 6.24])
    assert fit.offset_ms == 0.0 and fit.inner == fit.outer == pytest.approx(1.2)


def test_part_sums_accumulate_layer_by_layer():
    table = {part: {"8": ms} for part, ms in (("ends/16/none", 1.0), ("attention/16/2/none", 2.0))}
    table |= {"feed_forward/16/8/none": {"8": 1.0}, "first_attention/16/2/none": {"8": 1.0}}
    table |= {"first_feed_forward/16/8/none": {"8": 1.0}}
    found = part_sums(table, Architecture(16, tuple(Layer(number, 2, 8) for number in range(3))), 8)
    assert [part.ms for part in found] == [1.0, 4.0, 7.0, 9.0]
    assert [part.outer_ms for part in found] == [1.0, 1.0, 1.0, 3.0]


def test_a_device_with_additive_latencies_is_predicted_exactly(space, config):
    """All sub-networks take 0.2 ms plus 1.1 times the sum of their blocks. The fit finds this, so the error is zero."""
    rng = random.Random(0)
    recipe = ProfileRecipe(DEVICE, space, config, 0)
    sub_networks = recipe.sub_networks
    table = _table(sub_networks, lambda: rng.uniform(0.1, 1.0))
    whole = {
        name: _record(0.2 + 1.1 * sum(table[part]["16"] for part, _ in _parts(architecture, 16)))
        for name, architecture in sub_networks.items()
    }
    profile = recipe.profile(_chains(table), whole, {})
    assert profile.fit.offset_ms == pytest.approx(0.2, abs=1e-3)
    assert (profile.fit.inner, profile.fit.outer) == pytest.approx((1.1, 1.1), abs=1e-3)
    assert profile.error["mape"] < 1e-3 and profile.error["networks"] == 24
    assert profile.error["kendall_tau"] == pytest.approx(1.0)


def test_the_reference_corrects_blocks_measured_while_the_machine_was_slower(space, config):
    """Half of the blocks are measured while everything takes twice as long. The profile is that of a steady machine."""
    rng, recipe = random.Random(0), ProfileRecipe(DEVICE, space, config, 0)
    table = _table(recipe.sub_networks, lambda: rng.uniform(0.1, 1.0))
    whole = {
        name: _record(sum(table[part]["16"] for part, _ in _parts(architecture, 16)))
        for name, architecture in recipe.sub_networks.items()
    }
    blocks = _chains(table)
    slower = {
        name: replace(_record(2.0 * record.best_ms), reference_ms=2.0) if number % 2 else record
        for number, (name, record) in enumerate(blocks.items())
    }
    assert recipe.profile(slower, whole, {}) == recipe.profile(blocks, whole, {})
    assert recipe.profile(slower, whole, {}).error["mape"] < 1e-3


def test_the_reference_is_measured_with_each_group_and_gets_no_record():
    groups = grouped({REFERENCE: "chain", **{f"{number}": "network" for number in range(90)}})
    assert [len(group) for group in groups] == [41, 41, 11]
    assert all(next(iter(group)) == REFERENCE for group in groups)
    others = grouped({"teacher": "network", **{f"{number}": "network" for number in range(90)}})
    assert [len(group) for group in others] == [41, 41, 11]
    assert all(next(iter(group)) == "teacher" for group in others)
    assert grouped({"alone": "network"}) == [{"alone": "network"}] and grouped({}) == []
    found = {"samples_ms": {REFERENCE: [[2.0, 2.0]], "a": [[5.0, 5.0]]}, "spread": {REFERENCE: 0.0, "a": 0.0}}
    records = records_of(DEVICE, found | {"drift": 0.0, "noisy": False}, {})
    assert records.keys() == {"a"} and records["a"].reference_ms == 2.0


def test_blocks_after_dropped_tokens_are_predicted_at_the_remaining_number_of_tokens(space):
    """A token takes 1 ms per block. Texts have 4, 8 and 20 tokens, of which at most 6 remain after the first layer."""
    first, *others = space.largest().layers
    dropping = replace(space.largest(), layers=(replace(first, keep_tokens=6), *others))
    parts = [part for part, _ in _parts(dropping, 8)]
    assert [tokens for _, tokens in _parts(dropping, 8)] == [8, 8, 8, 8, 6, 6, 6, 6]
    table = {part: {"4": 4.0, "20": 20.0} for part in parts}
    device = Device(name="cpu", sequence_length=[4, 8, 20])
    medians = [part_sums(table, dropping, length)[-1].ms for length in device.lengths]
    assert np.median(medians) == pytest.approx(4 * 8 + 4 * 6)


def test_latencies_between_measured_lengths_are_interpolated_linearly(space, config):
    """Also if the records are sorted as text, in which 11 comes before 5."""
    device = Device(name="cpu", sequence_length=[5, 11, 26, 45, 30, 8, 20])
    recipe = ProfileRecipe(device, space, config, 0)
    assert len(recipe.tokens) == 4 and recipe.tokens[0] == 5 and recipe.tokens[-1] == 45
    parts = {part for architecture in recipe.sub_networks.values() for part, _ in _parts(architecture, 16)}
    copies = {part: 1 if part.startswith("ends") else 4 for part in parts}
    blocks = {f"{part}@{at}": _record(float(at) * copies[part]) for part in parts for at in recipe.tokens}
    table = recipe._table(dict(sorted(blocks.items())), 1.0)
    assert all([int(at) for at in own] == recipe.tokens for own in table.values())
    for length in (5, 7, 14, 33, 45):
        assert part_sums(table, space.largest(), length)[-1].ms == pytest.approx(7.0 * length)


def test_with_early_exits_networks_of_every_depth_are_measured(config):
    """Otherwise, all networks of a space that varies only the threshold would have the same depth."""
    given = SearchSpace.load("tiny").model_dump()
    full = {name: values[-1:] for name, values in given["dimensions"].items() if values and name != "layers"}
    full |= {"layers": [3], "exit_threshold": [0.7, 0.9]}
    space = SearchSpace.model_validate(given | {"dimensions": given["dimensions"] | full})
    depths = {
        len(architecture.layers) for architecture in ProfileRecipe(DEVICE, space, config, 0).sub_networks.values()
    }
    assert depths == {1, 2, 3}
    assert not any(
        architecture.exit_threshold for architecture in ProfileRecipe(DEVICE, space, config, 0).sub_networks.values()
    )


def test_another_seed_gives_other_sub_networks_and_another_digest(space, config):
    one, other = (ProfileRecipe(DEVICE, space, config, seed) for seed in (0, 1))
    assert one.digest != other.digest and one.sub_networks != other.sub_networks


@pytest.mark.parametrize("memory", [False, True])
def test_the_digest_depends_on_the_vocabulary_only_if_memory_is_measured(space, config, memory):
    """The teacher's memory depends on the vocabulary, but latencies do not."""
    pruned = CompactBertConfig(**config.to_dict() | {"vocab_size": config.vocab_size // 2})
    one, other = (ProfileRecipe(DEVICE, space, each, 0, memory).digest for each in (config, pruned))
    assert (one != other) is memory


def test_a_network_with_early_exits_is_predicted_from_the_shares_of_texts_that_exit(space):
    """Each block takes 1 ms. 60 % of the texts exit after the first of three layers, and the rest after the last."""
    architecture = replace(space.largest(), exit_threshold=0.9)
    table = {part: {"4": 1.0, "16": 1.0} for part, _ in _parts(architecture, 16)}
    device = Device(name="cpu", sequence_length=[4, 16])
    profile = Profile(device, {}, table, Fit(0.5, 2.0, 2.0), (1.0,), None, {"p50_ms": 1.0}, 0.1, {})
    through, early = profile.predict(architecture), profile.predict(architecture, (0.6, 0.0, 0.4))
    assert through["p50_ms"] == through["expected_ms"] == through["worst_ms"] == pytest.approx(0.5 + 2 * 7)
    assert early["p50_ms"] == pytest.approx(0.5 + 2 * 3) and early["worst_ms"] == through["worst_ms"]
    assert early["expected_ms"] == pytest.approx(0.6 * 6.5 + 0.4 * 14.5)
    assert early["p95_ms"] == pytest.approx(14.5)
    assert early["throughput_per_s"] == pytest.approx(1000 / 9.7)


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([3.0, 1.0, 2.0], [1 / 3] * 3, 2.0),
        ([1.0, 2.0, 3.0, 4.0], [0.25] * 4, 2.5),
        ([1.0, 9.0], [0.4, 0.6], 9.0),
        ([1.0, 5.0, 9.0], [0.5, 0.0, 0.5], 5.0),
        ([1.0, 2.0, 8.0], [0.5, 0.0, 0.5], 4.5),
    ],
)
def test_weighted_median(values, weights, expected):
    assert weighted_quantile(np.array(values), np.array(weights), 0.5) == pytest.approx(expected)


def test_if_most_texts_are_short_the_median_is_a_slow_run_of_a_short_text(space):
    """Two of three texts have 4 tokens and take 1 ms per block. The median is the 75 % quantile of their runs."""
    noise = (0.9, 1.0, 1.1, 1.5)
    table = {part: {"4": 1.0, "16": 4.0} for part, _ in _parts(space.smallest(), 4)}
    device = Device(name="cpu", sequence_length={4: 2, 16: 1})
    profile = Profile(device, {}, table, Fit(0.0, 1.0, 1.0), noise, None, {"p50_ms": 1.0}, 0.1, {})
    blocks = len(table)
    assert profile.predict_ms(space.smallest()) == pytest.approx(blocks * (1.1 + 1.5) / 2)
    assert profile.predict(space.smallest())["expected_ms"] == pytest.approx(blocks * 2 * sum(noise) / 4)


def test_noise_is_relative_to_the_median_of_each_length(space, config):
    device = Device(name="cpu", sequence_length=[4, 16])
    recipe = ProfileRecipe(device, space, config, 0)
    parts = {part for architecture in recipe.sub_networks.values() for part, _ in _parts(architecture, 4)}
    blocks = {f"{part}@{at}": _record(float(at)) for part in parts for at in recipe.tokens}
    quantiles = np.linspace(0.9, 1.1, 21)
    samples = tuple(np.concatenate([quantiles * 4.0, quantiles * 16.0]).tolist())
    profile = recipe.profile(
        blocks, {name: LatencyRecord(samples, device, {}, "now") for name in recipe.sub_networks}, {}
    )
    assert profile.noise == pytest.approx([0.905 + 0.01 * place for place in range(20)], abs=1e-3)


def test_the_lengths_of_a_task_are_quantiles_of_its_texts():
    device = Device(name="cpu", sequence_length="task")
    with pytest.raises(ValueError, match="not known yet"):
        device.lengths  # noqa: B018
    found = device.with_lengths_of([5] * 50 + [10] * 40 + [60] * 10)
    assert found.lengths == (5, 5, 5, 5, 10, 10, 10, 60)
    assert DEVICE.with_lengths_of([3]) == DEVICE and DEVICE.lengths == (16,)
    short = device.with_lengths_of([2, 3])
    assert Device(**short.model_dump(mode="json")) == short  # as the measuring process reads it


def test_held_out_networks_do_not_affect_the_fit(space, config):
    recipe = ProfileRecipe(DEVICE, space, config, 0)
    sub_networks = recipe.sub_networks
    assert sum(name.startswith("held_out") for name in sub_networks) == 24
    table = _table(sub_networks, lambda: 1.0)

    def whole(held_out_ms):
        return {
            name: _record(held_out_ms if name.startswith("held_out") else sum(1.0 for _ in _parts(architecture, 16)))
            for name, architecture in sub_networks.items()
        }

    first, second = (recipe.profile(_chains(table), whole(value), {}) for value in (3.0, 30.0))
    assert first.fit == second.fit
    assert first.error["mape"] != second.error["mape"]


def test_peak_memory_is_predicted_as_a_linear_function_of_the_stored_size(space, config):
    """Here, a process takes 50 MB, and three times the size of its network."""
    recipe = ProfileRecipe(DEVICE, space, config, 0, memory=True)
    whole = {name: _record(len(_parts(architecture, 16))) for name, architecture in recipe.sub_networks.items()}
    sizes = Sizes(config)
    peaks = {name: 50.0 + 3.0 * sizes.stored_mb(recipe.sub_networks[name]) for name in recipe.memory_measured()}
    profile = recipe.profile(_chains(_table(recipe.sub_networks, lambda: 1.0)), whole, peaks)
    assert profile.predict_memory_mb(10.0) == pytest.approx(80.0)
    assert profile.teacher["peak_memory_mb"] == pytest.approx(50.0 + 3.0 * stored_mb(config))


@pytest.mark.slow
def test_a_profile_has_latencies_at_every_number_of_tokens_that_occurs(config):
    """In this space tokens are dropped, so layers also process fewer tokens than the texts have."""
    space = mixed_space()
    device = Device(name="cpu", sequence_length=[8, 30])
    small = space.model_dump()
    small["dimensions"] |= {"layers": [3], "hidden_size": [32], "num_attention_heads": [4], "intermediate_size": [64]}
    profile = build_profile(ProfileRecipe(device, SearchSpace.model_validate(small), config, 0), "")
    assert not any("share" in part or "skip" in part for part in profile.blocks_ms)
    assert set(profile.blocks_ms["attention/32/4/low_rank(4)+int8"]) == {"2", "5", "8", "30"}
    assert profile.blocks_ms["dropping/32"].keys() == {"2", "5", "8", "30"}
    assert profile.error["networks"] == 24


@pytest.mark.slow
def test_a_measured_profile_predicts_every_sub_network_and_can_be_saved_and_loaded(space, config, tmp_path):
    profile = build_profile(ProfileRecipe(DEVICE, space, config, 0, memory=True), "")
    rng = random.Random(0)
    for _ in range(50):
        assert min(profile.predict(space.sample(rng)).values()) > 0
    assert profile.smallest_p50_ms < profile.teacher_p50_ms
    assert profile.predict(space.smallest())["p50_ms"] < profile.predict(space.largest())["p50_ms"]
    assert 5 < profile.teacher["peak_memory_mb"] < 2000
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == profile


def test_a_file_that_is_not_a_profile_is_refused(tmp_path):
    (tmp_path / "profile.json").write_text('{"device": {"name": "cpu"}}')
    with pytest.raises(DeviceError, match="not a profile"):
        Profile.load(tmp_path / "profile.json")


def test_an_interrupted_profile_resumes_and_keeps_its_samples(space, config, tmp_path, monkeypatch):
    """Measurements from before the interruption are not repeated, unless the machine has changed."""
    rng, counts = random.Random(0), []
    environment = {"fingerprint": "this"}

    def fake(device, networks, rounds, title, texts, tokens=None, keep=lambda records: None):
        names = [name for name in networks if name != REFERENCE]
        counts.append(len(names))
        half = len(names) // 2
        records = {name: LatencyRecord((rng.uniform(1, 2),) * 4, device, environment, "now") for name in names[:half]}
        keep(records)
        if len(counts) == 1:
            raise KeyboardInterrupt
        rest = {name: LatencyRecord((1.0,) * 4, device, environment, "now") for name in names[half:]}
        keep(rest)
        return records | rest

    monkeypatch.setattr("nas.latency.profiling.measure", fake)
    monkeypatch.setattr("nas.latency.profiling.conditions", lambda device: environment)
    recipe, parts = ProfileRecipe(DEVICE, space, config, 0), tmp_path / "samples.json"
    with pytest.raises(KeyboardInterrupt):
        build_profile(recipe, "inputs", parts)
    build_profile(recipe, "inputs", parts)
    blocks = len(recipe.blocks())
    assert counts == [blocks, blocks - blocks // 2, len(recipe.sub_networks)]
    assert parts.exists()
    build_profile(recipe, "inputs", parts)
    assert len(counts) == 3
    found = json.loads(parts.read_text())
    del found["whole"]["held_out_5"]
    parts.write_text(json.dumps(found))
    build_profile(recipe, "inputs", parts)
    assert counts.pop() == 1 and len(counts) == 3
    environment = {"fingerprint": "another"}
    build_profile(recipe, "inputs", parts)
    assert counts[3:] == [blocks, len(recipe.sub_networks)]
