"""The profile of a device: what each block costs there, and what a whole sub-network will cost.

A sub-network is predicted by the sum of its blocks, corrected by what was fitted to a few whole sub-networks: for what
happens once, and that a processor does unlike blocks in turns less well than the chain of equal ones that each was
timed in; where the first token alone is computed it finds the inputs at hand, which it does not in such a chain; and
small networks lose what they have in caches the more the longer they run, larger ones have lost it all.
`profiling.py` says how all that is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nas.architecture import LAYER_BLOCKS, Architecture, first_token_from
from nas.compression import Block
from nas.device import Device
from nas.errors import DeviceError
from nas.files import read_json, write_json
from nas.form import Readout
from nas.latency.record import throughput_per_s

ENDS, _FIRST = "ends/", "first_"
_OUTER = (ENDS, _FIRST)
"""How the names of parts begin that are no blocks of all tokens."""


class Sum(NamedTuple):
    """What the parts of a network come to, each by itself."""

    inner_ms: float
    """Blocks that compute all tokens."""
    outer_ms: float
    """Embeddings and head, and blocks that compute the first token alone."""

    @property
    def ms(self) -> float:
        """All of them."""
        return self.inner_ms + self.outer_ms


@dataclass(frozen=True)
class Fit:
    """From what blocks take by themselves to what a network takes."""

    offset_ms: float
    inner: float
    """How many times as long blocks that compute all tokens take there."""
    outer: float
    """The same of all else."""
    bend: float = 0.0
    """Added to both factors for what a sum of parts has up to `knee_ms`. Older profiles have none."""
    knee_ms: float = 0.0

    def at(self, parts: Sum) -> float:
        """The latency of a network whose parts sum up to that."""
        small = self.bend * min(parts.ms, self.knee_ms)
        return self.offset_ms + self.inner * parts.inner_ms + self.outer * parts.outer_ms + small


@dataclass(frozen=True)
class Profile:
    """Block latencies of one search space on one device, in milliseconds, with the prediction's measured error."""

    device: Device
    environment: dict[str, Any]
    blocks_ms: dict[str, dict[str, float]]
    """For each kind of block its latency at several numbers of tokens."""
    fit: Fit
    noise: tuple[float, ...]
    """Even quantiles of the latency of one text over the median of all of its length: how unquiet the device is."""
    memory: tuple[float, float] | None
    """Peak memory as a line over stored megabytes, offset and slope; None where no budget asks for it."""
    teacher: dict[str, float]
    """Measured figures of the uncompressed teacher, predicted networks' reference."""
    smallest_p50_ms: float
    """The smallest sub-network of the space, measured whole."""
    error: dict[str, float]
    """On whole sub-networks that nothing was fitted to: mape, worst, kendall_tau, networks."""
    held_out: list[dict[str, float]] = field(default_factory=list)
    """`predicted_ms` and `measured_ms` of these sub-networks."""
    noisy: bool = False
    """Whether the machine was disturbed in some measurement, also when it was repeated."""
    readout: Readout = "first"
    """What the head of the networks reads: where it is the first token, the last layers compute that one alone."""

    @property
    def teacher_p50_ms(self) -> float:
        """The teacher's median latency."""
        return self.teacher["p50_ms"]

    def predict_ms(self, architecture: Architecture, exits: Sequence[float] = ()) -> float:
        """The predicted median latency of a sub-network in milliseconds; see `predict`."""
        return self.predict(architecture, exits)["p50_ms"]

    def predict(self, architecture: Architecture, exits: Sequence[float] = ()) -> dict[str, float]:
        """The figures of a sub-network that depend on its latency over the device's lengths.

        `exits` are the shares of texts that leave after the first layer, the second and so on; all after the last where
        nothing is given.
        """
        parts = [sums(self.blocks_ms, architecture, length, self.readout) for length in self.device.lengths]
        shares = exits or (1.0,)  # of the layers from the first on, or of the last alone
        depths = range(1, len(shares) + 1) if exits else (-1,)
        costs = [self.fit.at(own[depth]) for depth in depths for own in parts]
        if len(costs) == 1:
            median, high, expected = (costs[0] * share for share in self._spread)
        else:
            weights = [share / (len(parts) * len(self.noise)) for share in shares for _ in parts]
            every, often = np.outer(costs, self.noise).ravel(), np.repeat(weights, len(self.noise))
            median, high, expected = _summary(every, often)
        return {
            "p50_ms": median,
            "p95_ms": high,
            "expected_ms": expected,
            "worst_ms": max(self.fit.at(own[-1]) for own in parts),
            "throughput_per_s": throughput_per_s(self.device, expected),
        }

    @cached_property
    def _spread(self) -> tuple[float, float, float]:
        """Median, 95th percentile and mean of the noise: those of any network that has one latency."""
        return _summary(np.array(self.noise), np.full(len(self.noise), 1.0 / len(self.noise)))

    def predict_memory_mb(self, stored_mb: float) -> float:
        """The predicted peak memory of a process that serves a network of that size."""
        offset, slope = self.memory or (0.0, 0.0)
        return offset + slope * stored_mb

    def save(self, path: Path) -> None:
        """Write the profile as JSON."""
        write_json(path, asdict(self) | {"device": self.device.model_dump(mode="json")})

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile. Raises `DeviceError` if it is missing or not one."""
        values = read_json(path, DeviceError)
        try:
            read = {
                "device": Device(**values["device"]),
                "fit": Fit(**values["fit"]),
                "noise": tuple(values["noise"]),
                "memory": tuple(values["memory"]) if values["memory"] else None,
            }
            return cls(**values | read)
        except (KeyError, TypeError, ValueError):
            raise DeviceError(f"{path}: not a profile of this version; remove it and run nas profile") from None


def _summary(every: np.ndarray, often: np.ndarray) -> tuple[float, float, float]:
    """Median, 95th percentile and mean of values that come as often as their weights say."""
    return weighted_quantile(every, often, 0.5), weighted_quantile(every, often, 0.95), float(every @ often)


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """What that share of values lies below, which come as often as their weights (of sum 1) say."""
    order = np.argsort(values)
    order = order[weights[order] > 0.0]
    sorted_values, reached = values[order], np.cumsum(weights[order])
    place = min(int(np.searchsorted(reached, share - 1e-9)), len(sorted_values) - 1)
    if abs(reached[place] - share) < 1e-9 and place + 1 < len(sorted_values):
        return float(sorted_values[place : place + 2].mean())
    return float(sorted_values[place])


def sums(
    table: dict[str, dict[str, float]], architecture: Architecture, length: int, readout: Readout = "first"
) -> list[Sum]:
    """What the parts of a network come to for a text of some length: up to its ends, its first layer and so on."""

    def cost(part: str, tokens: int) -> float:
        known = table[part]
        if str(tokens) in known:
            return known[str(tokens)]
        return float(np.interp(tokens, [int(at) for at in known], list(known.values())))

    found, inner, outer = list[Sum](), 0.0, 0.0
    for stage in stages(architecture, length, readout):
        for part, tokens in stage:
            if part.startswith(_OUTER):
                outer += cost(part, tokens)
            else:
                inner += cost(part, tokens)
        found.append(Sum(inner, outer))
    return found


def stages(architecture: Architecture, length: int, readout: Readout = "first") -> Iterator[list[tuple[str, int]]]:
    """The entries of the table that a network's latency is the sum of, each with its number of tokens.

    First those of its two ends, then those of each layer.
    """
    hidden, tokens = architecture.hidden_size, length
    yield [(f"{ENDS}{hidden}/{architecture.embedding}", tokens)]
    layers = architecture.resolved
    alone = first_token_from(layers, readout)
    for number, layer in enumerate(layers):
        options = ((block, *layer.option(block)) for block in LAYER_BLOCKS)
        first_only = number >= alone
        stage = [
            (part_name(block, hidden, size, choice, first_only), tokens) for block, size, choice in options if size
        ]
        if layer.keep_tokens:
            stage.append((f"dropping/{hidden}", tokens))
            tokens = min(tokens, layer.keep_tokens)
        yield stage


def part_name(block: Block, hidden: int, size: int, choice: str, first_only: bool) -> str:
    """The entry of the table for a block, for all tokens or for the first token alone."""
    return f"{_FIRST if first_only else ''}{block}/{hidden}/{size}/{choice}"
