"""The profile of a device: what each block costs there, and what a whole sub-network will cost.

A block's latency is taken from a chain of several of them. A sub-network is predicted by the sum of its blocks,
corrected by a line fitted to a few whole sub-networks (offset for what happens once, slope for what happens between
blocks). The error is measured on other whole sub-networks and written into the profile.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.architecture import LAYER_BLOCKS, Architecture, Layer, first_token_from
from nas.compression import Block
from nas.errors import DeviceError
from nas.files import digest, read_json, write_json
from nas.latency.measure import Network, measure
from nas.latency.record import LatencyRecord, error_of
from nas.latency.runtimes import BlockChain
from nas.model import CompactBertConfig, CompactBertForSequenceClassification
from nas.space import SearchSpace
from nas.study import Device

_METHOD = 4
"""Raised when blocks are measured in another way, so that older profiles are made anew."""
_COPIES = 4
_ROUNDS = 6
_FITTED, _HELD_OUT = 12, 24
_MOST_LENGTHS = 4
"""So many numbers of tokens are measured; between them lies a line."""
_ALL = 10**6
_MOST_ROWS = 4096
"""Rows of the word table in measured networks: a look-up costs the same in a larger one, writing it does not."""
_UNDISTURBED = 25
"""The percentile taken of a block's samples: disturbances only ever add time."""


@dataclass(frozen=True)
class Prediction:
    """What a network is predicted to take, over the device's lengths and the layers that texts leave after."""

    p50_ms: float
    expected_ms: float
    """The mean."""
    worst_ms: float
    """The longest text through all layers."""


@dataclass(frozen=True)
class Profile:
    """Block latencies of one search space on one device, in milliseconds, with the prediction's measured error."""

    device: Device
    inputs: str
    environment: dict[str, Any]
    blocks_ms: dict[str, dict[str, float]]
    """For each kind of block its latency at several numbers of tokens."""
    offset_ms: float
    slope: float
    teacher_p50_ms: float
    """The uncompressed teacher, predicted networks' reference."""
    smallest_p50_ms: float
    """The smallest sub-network of the space, measured whole."""
    error: dict[str, float]
    """On whole sub-networks that the line was not fitted to: mape, worst, kendall_tau, networks."""
    held_out: list[dict[str, float]]
    """`predicted_ms` and `measured_ms` of these sub-networks."""

    def predict_ms(self, architecture: Architecture, exits: Sequence[float] = ()) -> float:
        """The predicted median latency of a sub-network over the device's lengths, in milliseconds.

        `exits` are the shares of texts that leave after the first layer, the second and so on; all after the last where
        nothing is given.
        """
        return self.predict(architecture, exits).p50_ms

    def predict(self, architecture: Architecture, exits: Sequence[float] = ()) -> Prediction:
        """The predicted latency of a sub-network in milliseconds; see `predict_ms`."""
        sums = [_sums_ms(self.blocks_ms, architecture, length) for length in self.device.lengths]
        shares = exits or (1.0,)  # of the layers from the first on, or of the last alone
        depths = range(1, len(shares) + 1) if exits else (-1,)
        costs = [self.offset_ms + self.slope * own[depth] for depth in depths for own in sums]
        weights = [share / len(sums) for share in shares for _ in sums]
        return Prediction(
            p50_ms=weighted_median(costs, weights),
            expected_ms=float(np.dot(costs, weights)),
            worst_ms=self.offset_ms + self.slope * max(own[-1] for own in sums),
        )

    def save(self, path: Path) -> None:
        """Write the profile as JSON."""
        write_json(path, asdict(self) | {"device": self.device.model_dump(mode="json")})

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile. Raises `DeviceError` if it is missing or not one."""
        values = read_json(path, DeviceError)
        try:
            return cls(**values | {"device": Device(**values["device"])})
        except (KeyError, TypeError, ValueError):
            raise DeviceError(f"{path}: not a profile of this version; remove it and run nas profile") from None


def profile_inputs(device: Device, space: SearchSpace, config: CompactBertConfig) -> str:
    """What a profile depends on besides the machine."""
    measured = (_METHOD, _COPIES, _ROUNDS, _FITTED, _HELD_OUT)
    kind = (config.hidden_act, config.pooler_act, config.embedding_size, config.input_names, config.num_labels)
    return digest([device.model_dump(mode="json"), space.digest, kind, measured])


def build_profile(device: Device, space: SearchSpace, config: CompactBertConfig, seed: int) -> Profile:
    """Measure all blocks of a space and some whole sub-networks on a device.

    `config` is the teacher's; only its sizes matter, weights are random.
    """
    torch.manual_seed(seed)
    rows = min(config.vocab_size, _MOST_ROWS)
    base = CompactBertConfig(**config.to_dict() | {"vocab_size": rows})
    table = _measure_blocks(device, space, base)
    chosen = _whole_architectures(space, seed)
    models: dict[str, Network] = {key: _random_model(base, chosen[key]) for key in chosen}
    whole = measure(device, models, 2 * _ROUNDS, f"Measuring whole sub-networks on {device.name}")
    return _fit(device, profile_inputs(device, space, config), table, chosen, whole)


def _measure_blocks(device: Device, space: SearchSpace, base: CompactBertConfig) -> dict[str, dict[str, float]]:
    blocks = dict(_block_networks(space, base))
    lengths = _tokens_measured(device, space)
    networks = {f"{part}@{tokens}": network for part, network in blocks.items() for tokens in lengths}
    at = {f"{part}@{tokens}": tokens for part in blocks for tokens in lengths}
    records = measure(device, networks, _ROUNDS, f"Measuring blocks on {device.name}", tokens=at)

    def cost(part: str, tokens: int) -> float:
        copies = 1 if part.startswith("ends") else _COPIES
        return records[f"{part}@{tokens}"].percentile_ms(_UNDISTURBED) / copies

    table = {part: {str(tokens): cost(part, tokens) for tokens in lengths} for part in blocks}
    for hidden in space.dimensions.hidden_size if space.dimensions.keep_tokens else ():
        heads = space.dimensions.num_attention_heads[-1]
        attention = table[_part("attention", hidden, heads, "none", first_only=False)]
        dropping = table[f"dropping/{hidden}"]
        table[f"dropping/{hidden}"] = {at: max(0.0, value - attention[at]) for at, value in dropping.items()}
    return table


def _fit(
    device: Device,
    inputs: str,
    table: dict[str, dict[str, float]],
    chosen: dict[str, Architecture],
    whole: dict[str, LatencyRecord],
) -> Profile:
    fitted = [name for name in chosen if not name.startswith("held_out")]
    held_out = [name for name in chosen if name.startswith("held_out")]
    sums = {name: _median_ms(table, device, architecture) for name, architecture in chosen.items()}
    measured = {name: record.p50_ms for name, record in whole.items()}
    offset, slope = _line([sums[name] for name in fitted], [measured[name] for name in fitted])
    predicted = [offset + slope * sums[name] for name in held_out]
    found = [measured[name] for name in held_out]
    return Profile(
        device=device,
        inputs=inputs,
        environment=whole["teacher"].environment,
        blocks_ms={part: {at: round(value, 5) for at, value in found.items()} for part, found in table.items()},
        offset_ms=offset,
        slope=slope,
        teacher_p50_ms=measured["teacher"],
        smallest_p50_ms=measured["smallest"],
        error=error_of(predicted, found),
        held_out=[
            {"predicted_ms": round(expected, 4), "measured_ms": round(real, 4)}
            for expected, real in zip(predicted, found, strict=True)
        ],
    )


def _line(sums: list[float], measured: list[float]) -> tuple[float, float]:
    """The line of least relative error through (sum, measured)."""
    x, y = np.asarray(sums), np.asarray(measured)
    design = np.stack([1.0 / y, x / y], axis=1)
    offset, slope = np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]
    return float(offset), float(slope)


def _whole_architectures(space: SearchSpace, seed: int) -> dict[str, Architecture]:
    rng = random.Random(f"profile/{seed}")
    chosen = {"teacher": space.largest(), "smallest": space.smallest()}
    for number in range(_FITTED - len(chosen)):
        chosen[f"fitted_{number}"] = _to_the_end(space.sample(rng))
    for number in range(_HELD_OUT):
        chosen[f"held_out_{number}"] = _to_the_end(space.sample(rng))
    return chosen


def _to_the_end(architecture: Architecture) -> Architecture:
    """The same network without early exits: where random weights would leave says nothing."""
    return replace(architecture, exit_threshold=0.0)


def weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The median of values that come as often as their weights (of sum 1) say."""
    order = [place for place in np.argsort(values) if weights[place] > 0.0]
    sorted_values, reached = np.asarray(values)[order], np.cumsum(np.asarray(weights)[order])
    middle = min(int(np.searchsorted(reached, 0.5 - 1e-9)), len(sorted_values) - 1)
    if abs(reached[middle] - 0.5) < 1e-9 and middle + 1 < len(sorted_values):
        return float(sorted_values[middle : middle + 2].mean())
    return float(sorted_values[middle])


def _median_ms(table: dict[str, dict[str, float]], device: Device, architecture: Architecture) -> float:
    return float(np.median([_sums_ms(table, architecture, length)[-1] for length in device.lengths]))


def _sums_ms(table: dict[str, dict[str, float]], architecture: Architecture, length: int) -> list[float]:
    """What the parts of a network sum up to for a text of some length: up to its ends, its first layer and so on."""

    def cost(part: str, tokens: int) -> float:
        known = table[part]
        if str(tokens) in known:
            return known[str(tokens)]
        return float(np.interp(tokens, [int(at) for at in known], list(known.values())))

    return list(accumulate(sum(cost(*part) for part in stage) for stage in _stages(architecture, length)))


def _stages(architecture: Architecture, length: int) -> Iterator[list[tuple[str, int]]]:
    """The entries of the table that a network's latency is the sum of, each with its number of tokens.

    First those of its two ends, then those of each layer.
    """
    hidden, tokens = architecture.hidden_size, length
    yield [(f"ends/{hidden}/{architecture.embedding}", tokens)]
    layers = architecture.resolved
    alone = first_token_from(layers)
    for number, layer in enumerate(layers):
        options = ((block, *layer.option(block)) for block in LAYER_BLOCKS)
        first_only = number >= alone
        stage = [(_part(block, hidden, size, choice, first_only), tokens) for block, size, choice in options if size]
        if layer.keep_tokens:
            stage.append((f"dropping/{hidden}", tokens))
            tokens = min(tokens, layer.keep_tokens)
        yield stage


def _part(block: Block, hidden: int, size: int, choice: str, first_only: bool) -> str:
    """The entry of the table for a block, for all tokens or for the first token alone."""
    return f"{'first_' if first_only else ''}{block}/{hidden}/{size}/{choice}"


def _tokens_measured(device: Device, space: SearchSpace) -> list[int]:
    """The numbers of tokens that blocks are measured at: all that occur if they are few, else some among them."""
    longest = max(device.lengths)
    needed = sorted({*device.lengths, *(kept for kept in space.dimensions.keep_tokens if kept < longest)})
    if len(needed) <= _MOST_LENGTHS:
        return needed
    places = np.linspace(0, len(needed) - 1, _MOST_LENGTHS).round().astype(int)
    return [needed[place] for place in places]


def _block_networks(space: SearchSpace, base: CompactBertConfig) -> Iterator[tuple[str, Network]]:
    for hidden in space.dimensions.hidden_size:
        config = base.with_architecture(Architecture(hidden_size=hidden, layers=()))
        for choice in space.compression.embedding:
            ends = Architecture(hidden_size=hidden, layers=(), embedding=choice)
            yield f"ends/{hidden}/{choice}", _random_model(base, ends)
        for block in LAYER_BLOCKS:
            for size, choice in space.options(block):
                for first_only in (False, True) if size else ():
                    layer = Layer(0, 1, 1).having(block, (size, choice))
                    chain = BlockChain(block, layer, _COPIES, first_only)
                    yield _part(block, hidden, size, choice, first_only), (chain, config)
        if space.dimensions.keep_tokens:
            # All are chosen to go on, so that each copy has as many.
            layer = Layer(0, space.dimensions.num_attention_heads[-1], 1, keep_tokens=_ALL)
            yield f"dropping/{hidden}", (BlockChain("attention", layer, _COPIES), config)


def _random_model(base: CompactBertConfig, architecture: Architecture) -> CompactBertForSequenceClassification:
    return CompactBertForSequenceClassification(base.with_architecture(architecture)).eval()
