"""Profiles a device: defines the networks to measure, and computes the profile from their latencies.

`ProfileRecipe` defines the networks and computes the `Profile`. `build_profile` measures the networks on a device that
can be reached. For other devices, `bundle.py` writes an archive. The latency of a block is the latency of a chain of
equal blocks, divided by the number of blocks. The networks are measured in groups. The speed of a machine may change
over time, so every group includes the same reference network, and all latencies are scaled by the latency of this
network. The prediction error is measured on held-out sub-networks and stored in the profile.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import lsq_linear

from nas.architecture import LAYER_BLOCKS, Architecture, Layer
from nas.device import Device
from nas.errors import DeviceError
from nas.files import digest, read_json, write_json
from nas.form import NetworkForm
from nas.latency.measure import NO_TEXTS, REFERENCE, Network, Texts, conditions, measure, measure_peak_memory
from nas.latency.networks import BlockChain, with_repeating_weights
from nas.latency.profile import EMBEDDINGS_AND_CLASSIFIER, Fit, PartSums, Profile, part_name, part_sums
from nas.latency.record import LatencyRecord, error_of, latency_metrics
from nas.model import CompactBert, CompactBertConfig
from nas.model.sizes import Sizes, stored_mb
from nas.model.stock import form_of
from nas.space import SearchSpace

_METHOD_VERSION = 13
"""The version of the measurement method.

Increment it when blocks are measured or the fit is computed in a different way, so that profiles are rebuilt.
"""
COPIES = 4
"""The number of blocks in each chain of equal blocks that is measured."""
BLOCK_ROUNDS, WHOLE_ROUNDS = 6, 16
_FITTED, _HELD_OUT, _MEMORY_MEASURED = 16, 24, 6
"""The numbers of complete networks that are measured for the fit, for the test of the fit, and for peak memory.

`_FITTED` includes the teacher, although the fit does not use the teacher.
"""
_SHALLOW_EVERY = 3
"""One in this many random networks for the fit is cut to the fewest layers that the search space allows.

Random sampling yields few such shallow networks. The fit needs some of them, because their latencies deviate from those
of other networks.
"""
_TEACHER = "teacher"
_MAX_LENGTHS = 4
"""The maximum number of text lengths at which blocks are measured.

Latencies between these lengths are interpolated linearly.
"""
_MIN_SUM_RATIO = 1.5
"""If the largest sum of part latencies is less than this many times the smallest sum, only one factor is fitted."""
_PENALTY = 0.1
"""The weight of the penalty on differences between slopes: the usual relative error of a measurement, divided by the
expected difference between slopes."""
_KEEP_ALL_TOKENS = 10**6
"""A value of `keep_tokens` that is larger than the length of any text."""
_MAX_VOCABULARY = 4096
"""The maximum vocabulary size of the measured networks.

A larger vocabulary would take longer to write to files, and would not change the latency.
"""
_NOISE_PROBABILITIES = (np.arange(20) + 0.5) / 20
"""The probabilities of the quantiles that represent the distribution of latency at one length."""


@dataclass(frozen=True)
class ProfileRecipe:
    """Everything that determines a profile, except the machine.

    The sizes of the teacher matter, but its weights do not, because the measured networks have artificial weights.
    """

    device: Device
    space: SearchSpace
    config: CompactBertConfig
    """The teacher's configuration."""
    seed: int
    memory: bool = False
    """Whether peak memory is also measured."""
    texts: Texts = NO_TEXTS

    @property
    def digest(self) -> str:
        """A digest that changes if different networks are measured, or if the method of measurement changes."""
        counts = (COPIES, BLOCK_ROUNDS, WHOLE_ROUNDS, _FITTED, _HELD_OUT, _MEMORY_MEASURED)
        method = (_METHOD_VERSION, *counts, self.memory, self.seed)
        config = self.config
        network = (config.hidden_act, config.pooler_act, config.embedding_size, config.input_names, config.num_labels)
        # Latency does not depend on the size of the vocabulary, but the teacher's memory does.
        optional: list[object] = [config.vocab_size] if self.memory else []
        optional += ["first layers"] if self.space.dimensions.exit_threshold else []
        form = form_of(config)
        if form.projection_dim == config.hidden_size:  # digests of older profiles lack this width, the usual one
            form = replace(form, projection_dim=None)
        values = form.identity
        if not config.own_width:  # digests of older profiles do not contain this setting
            values.pop("own_width")
        optional += [values] if form != NetworkForm() else []
        optional += [self.config.block_form] if self.config.block_form else []
        return digest([self.device.model_dump(mode="json"), self.space.digest, network, method, *optional])

    @cached_property
    def base(self) -> CompactBertConfig:
        """The teacher's configuration with a vocabulary of at most `_MAX_VOCABULARY` tokens."""
        rows = min(self.config.vocab_size, _MAX_VOCABULARY)
        return CompactBertConfig(**self.config.to_dict() | {"vocab_size": rows})

    @cached_property
    def sub_networks(self) -> dict[str, Architecture]:
        """The architectures of the complete networks that are measured, keyed by name.

        The architectures are those of the teacher, of the smallest sub-network, of random sub-networks for the fit, and
        of random sub-networks to test the fit.
        """
        rng = random.Random(f"profile/{self.seed}")
        sub_networks = {_TEACHER: self.space.largest(), "smallest": self.space.smallest()}
        fewest = len(self.space.layer_sets[0])
        for number in range(_FITTED - len(sub_networks)):
            drawn = self._random_sub_network(rng)
            sub_networks[f"fitted_{number}"] = drawn if number % _SHALLOW_EVERY else self._first_layers(drawn, fewest)
        for number in range(_HELD_OUT):
            sub_networks[f"held_out_{number}"] = self._random_sub_network(rng)
        return sub_networks

    def _random_sub_network(self, rng: random.Random) -> Architecture:
        """Return a random sub-network without early exits.

        If the drawn architecture has early exits, return only a random number of its first layers, without exits. With
        artificial weights, texts would exit after arbitrary layers, but the fit needs networks of every depth.
        """
        drawn = self.space.sample(rng)
        if not drawn.exit_threshold:
            return drawn
        return self._first_layers(drawn, rng.randint(1, len(drawn.layers)))

    def _first_layers(self, architecture: Architecture, count: int) -> Architecture:
        """Return a copy of an architecture with only its first `count` layers, and without early exits."""
        return self.space.repaired(replace(architecture, layers=architecture.layers[:count], exit_threshold=0.0))

    @cached_property
    def tokens(self) -> list[int]:
        """The text lengths, in tokens, at which blocks are measured.

        If more than `_MAX_LENGTHS` lengths can occur, the result is an evenly spaced selection of them.
        """
        longest = max(self.device.lengths)
        dropped = (kept for kept in self.space.dimensions.keep_tokens if kept < longest)
        needed = sorted({*self.device.lengths, *dropped})
        if len(needed) <= _MAX_LENGTHS:
            return needed
        indices = np.linspace(0, len(needed) - 1, _MAX_LENGTHS).round().astype(int)
        return [needed[index] for index in indices]

    @cached_property
    def reference(self) -> Network:
        """The network that is measured with every group.

        The reference network is a single feed-forward block with the largest sizes, which is the slowest kind of block.
        """
        sizes = self.space.dimensions
        layer = Layer(_template_layer(self.space), sizes.num_attention_heads[-1], sizes.intermediate_size[-1])
        architecture = Architecture(hidden_size=sizes.hidden_size[-1], layers=())
        return BlockChain("feed_forward", layer, 1), self.base.with_architecture(architecture)

    def with_reference(self, networks: Mapping[str, Network]) -> dict[str, Network]:
        """Return the networks, preceded by the reference network."""
        return {REFERENCE: self.reference, **networks}

    def tokens_of(self, blocks: Iterable[str] = ()) -> dict[str, int]:
        """Return the number of input tokens of the reference network and of each block in `blocks`, keyed by name."""
        return {REFERENCE: max(self.device.lengths)} | {name: int(name.rpartition("@")[2]) for name in blocks}

    def blocks(self) -> dict[str, Network]:
        """Return the networks with which blocks are timed, keyed by `<part>@<tokens>`."""
        parts = dict(_block_networks(self.space, self.base))
        return {f"{part}@{count}": network for part, network in parts.items() for count in self.tokens}

    def whole(self) -> dict[str, Network]:
        """Return the models of the architectures in `sub_networks`, keyed by the same names."""
        return {name: _artificial_network(self.base, architecture) for name, architecture in self.sub_networks.items()}

    def memory_measured(self) -> list[str]:
        """Return the names of the sub-networks whose peak memory is measured; empty if `memory` is not set."""
        return list(self.sub_networks)[:_MEMORY_MEASURED] if self.memory else []

    def profile(
        self,
        blocks: Mapping[str, LatencyRecord],
        whole: Mapping[str, LatencyRecord],
        peaks: Mapping[str, float],
    ) -> Profile:
        """Compute the profile from measurements.

        `blocks` holds the latency records of blocks, `whole` those of complete sub-networks, and `peaks` the peak
        memory of sub-networks in 10^6 bytes. `blocks` is keyed as in `blocks()`, the other two by sub-network name.
        Raises `DeviceError` if peak memory is needed but the device does not report it.
        """
        reference_ms = whole[_TEACHER].reference_ms
        whole = {name: record.scaled(reference_ms / record.reference_ms) for name, record in whole.items()}
        table = self._table(blocks, reference_ms)
        fit, noise = self._fit_and_noise(table, whole)
        teacher = latency_metrics(whole[_TEACHER])
        memory = self._memory(peaks)
        if memory:
            teacher["peak_memory_mb"] = memory[0] + memory[1] * stored_mb(self.config)
        profile = Profile(
            device=self.device,
            environment=whole[_TEACHER].environment,
            blocks_ms={
                part: {count: round(ms, 5) for count, ms in latencies.items()} for part, latencies in table.items()
            },
            fit=fit,
            noise=noise,
            memory=memory,
            teacher=teacher,
            smallest_p50_ms=whole["smallest"].p50_ms,
            error={},
            noisy=any(record.noisy for record in (*blocks.values(), *whole.values())),
            readout=self.config.readout,
        )
        held_out_names = [name for name in self.sub_networks if name.startswith("held_out")]
        predicted = [profile.predict_ms(self.sub_networks[name]) for name in held_out_names]
        measured = [whole[name].p50_ms for name in held_out_names]
        pairs = [
            {"predicted_ms": round(expected, 4), "measured_ms": round(actual, 4)}
            for expected, actual in zip(predicted, measured, strict=True)
        ]
        return replace(profile, error=error_of(predicted, measured), held_out=pairs)

    def _fit_and_noise(
        self, table: dict[str, dict[str, float]], whole: Mapping[str, LatencyRecord]
    ) -> tuple[Fit, tuple[float, ...]]:
        """Return `Profile.fit` and `Profile.noise`, computed from the latencies of parts and of complete networks."""
        # The fit does not use the teacher: its layers are all alike, which is untypical of sub-networks.
        names = [name for name in self.sub_networks if name != _TEACHER and not name.startswith("held_out")]
        parts = [
            part_sums(table, self.sub_networks[name], length, self.config.readout)[-1]
            for name in names
            for length in self.device.lengths
        ]
        samples = [times for name in names for times in whole[name].by_length()]
        medians = [float(np.median(times)) for times in samples]
        quantiles = [np.quantile(times, _NOISE_PROBABILITIES) for times in samples]
        noise = [values / median for values, median in zip(quantiles, medians, strict=True)]
        return fitted(parts, medians), tuple(np.median(noise, axis=0).round(4).tolist())

    def _table(self, records: Mapping[str, LatencyRecord], reference_ms: float) -> dict[str, dict[str, float]]:
        """Return the latencies of each part in milliseconds, keyed by part name and then by number of tokens.

        The latencies are scaled as if the reference network had taken `reference_ms` in all measurements.
        """
        table: dict[str, dict[str, float]] = {}
        for name, record in records.items():
            part, _, count = name.rpartition("@")
            copies = 1 if part.startswith(EMBEDDINGS_AND_CLASSIFIER) else COPIES
            table.setdefault(part, {})[count] = record.best_ms / copies * reference_ms / record.reference_ms
        table = {part: dict(sorted(values.items(), key=lambda item: int(item[0]))) for part, values in table.items()}
        dimensions = self.space.dimensions
        for hidden in dimensions.hidden_size if dimensions.keep_tokens else ():
            heads = dimensions.num_attention_heads[-1]
            attention = table[part_name("attention", hidden, heads, "none", first_only=False)]
            dropping = table[f"dropping/{hidden}"]
            table[f"dropping/{hidden}"] = {count: max(0.0, ms - attention[count]) for count, ms in dropping.items()}
        return table

    def _memory(self, peaks: Mapping[str, float]) -> tuple[float, float] | None:
        if not self.memory:
            return None
        if not peaks:
            raise DeviceError(
                f"devices.{self.device.name}: its operating system does not report the peak memory of a process; "
                "remove peak_memory_mb from the budgets of this device"
            )
        model_sizes = Sizes(self.base)
        sizes = [model_sizes.stored_mb(self.sub_networks[name]) for name in peaks]
        slope, offset = (
            np.polyfit(sizes, list(peaks.values()), 1) if len(set(sizes)) > 1 else (1.0, max(peaks.values()))
        )
        return float(offset), float(slope)


def build_profile(recipe: ProfileRecipe, inputs: str, parts: Path | None = None) -> Profile:
    """Measure all blocks of a search space and some complete sub-networks on a device, and return the profile.

    The samples are stored in the file `parts`, so that an interrupted measurement can resume. `inputs` is a digest of
    the recipe and the machine. Stored samples with a different digest are not used.
    """
    measurement, blocks = _ResumableMeasurement(recipe, inputs, parts), recipe.blocks()
    block_records = measurement.records("blocks", blocks, BLOCK_ROUNDS, "blocks", recipe.tokens_of(blocks))
    whole = recipe.whole()
    whole_records = measurement.records("whole", whole, WHOLE_ROUNDS, "complete sub-networks", recipe.tokens_of())
    networks = {name: whole[name] for name in recipe.memory_measured()}
    peaks = measure_peak_memory(recipe.device, networks, recipe.texts) if networks else {}
    return recipe.profile(block_records, whole_records, peaks)


class _ResumableMeasurement:
    """Measures networks, and stores their records in a file. Records of a different machine or recipe are ignored."""

    def __init__(self, recipe: ProfileRecipe, inputs: str, path: Path | None) -> None:
        self.recipe, self.path = recipe, path
        self._content: dict[str, Any] = {"inputs": inputs, "blocks": {}, "whole": {}}
        if path and path.exists():
            content = read_json(path, DeviceError)
            if content["inputs"] == inputs and content["environment"] == conditions(recipe.device):
                self._content = content

    def records(
        self, kind: str, networks: Mapping[str, Network], rounds: int, title: str, tokens: Mapping[str, int]
    ) -> dict[str, LatencyRecord]:
        """Return the records of the networks, which are measured unless their records are stored under `kind`."""
        recipe, stored, environment = self.recipe, self._content[kind], self._content.get("environment", {})
        known = {
            name: LatencyRecord(tuple(samples), recipe.device, environment, when, noisy=noisy, reference_ms=reference)
            for name, (samples, when, noisy, reference) in stored.items()
        }

        def store(records: Mapping[str, LatencyRecord]) -> None:
            for name, record in records.items():
                self._content["environment"] = record.environment
                stored[name] = (record.samples_ms, record.measured_at, record.noisy, record.reference_ms)
            if self.path:
                write_json(self.path, self._content)

        missing = {name: network for name, network in networks.items() if name not in known}
        if missing:
            title, timed = f"Measuring {title} on {recipe.device.name}", recipe.with_reference(missing)
            known |= measure(recipe.device, timed, rounds, title, recipe.texts, tokens, store)
        return known


def fitted(parts: Sequence[PartSums], measured: Sequence[float]) -> Fit:
    """Fit a function that predicts the latency of a network from its `parts`, by least squares of the relative errors.

    The function may have different slopes for inner and outer parts (see `PartSums`), and for sums below and above a
    knee. The knee is the mean of the sums. A small penalty keeps the slopes equal unless the measurements clearly
    require a difference. If the sums of the networks hardly differ, only one factor is fitted.
    """
    (inner, outer), y = np.transpose(parts), np.asarray(measured)
    totals = inner + outer
    if totals.max() < _MIN_SUM_RATIO * totals.min():
        factor = float(np.median(y / totals))
        return Fit(0.0, factor, factor)
    knee = float(totals.mean())
    design = np.stack([np.ones_like(y), inner, outer, np.minimum(totals, knee)], axis=1) / y[:, None]
    penalties = [[0.0, _PENALTY, -_PENALTY, 0.0], [0.0, 0.0, 0.0, _PENALTY]]
    design, target = np.vstack([design, penalties]), np.append(np.ones_like(y), np.zeros(len(penalties)))
    offset, inner_slope, outer_slope, bend = lsq_linear(design, target, ([-np.inf, 0.0, 0.0, 0.0], np.inf)).x.tolist()
    return Fit(offset, inner_slope, outer_slope, bend, knee)


def _block_networks(space: SearchSpace, base: CompactBertConfig) -> Iterator[tuple[str, Network]]:
    for hidden in space.dimensions.hidden_size:
        config = base.with_architecture(Architecture(hidden_size=hidden, layers=()))
        for choice in space.compression.embedding:
            architecture = Architecture(hidden_size=hidden, layers=(), embedding=choice)
            yield f"{EMBEDDINGS_AND_CLASSIFIER}{hidden}/{choice}", _artificial_network(base, architecture)
        for block in LAYER_BLOCKS:
            for size, choice in space.options(block):
                for first_only in ((False, True) if base.readout == "first" else (False,)) if size else ():
                    layer = Layer(_template_layer(space), 1, 1).with_option(block, (size, choice))
                    chain = BlockChain(block, layer, COPIES, first_only)
                    yield part_name(block, hidden, size, choice, first_only), (chain, config)
        if space.dimensions.keep_tokens:
            # All tokens are kept, so that every copy computes the same number of tokens.
            heads = space.dimensions.num_attention_heads[-1]
            layer = Layer(_template_layer(space), heads, 1, keep_tokens=_KEEP_ALL_TOKENS)
            yield f"dropping/{hidden}", (BlockChain("attention", layer, COPIES), config)


def _template_layer(space: SearchSpace) -> int:
    """Return the index of the teacher layer that measured blocks imitate.

    The second layer is chosen if there is one, because the first layer may be untypical.
    """
    return min(1, space.teacher.num_hidden_layers - 1)


def _artificial_network(base: CompactBertConfig, architecture: Architecture) -> CompactBert:
    with torch.no_grad():
        model = CompactBert(base.with_architecture(architecture))
    return with_repeating_weights(model).eval()
