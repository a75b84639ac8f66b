"""The profile of a device: measured latencies of blocks, from which `Profile` predicts the latency of sub-networks.

The prediction is the sum of the block latencies, corrected by a `Fit` to a few complete sub-networks. The correction is
needed because blocks are timed in chains of equal blocks, and a complete network differs from such chains in three
ways. First, its sequence of different blocks runs less efficiently. Second, its blocks that compute only the first
token find their inputs in the cache. Third, a small network keeps more of its weights in the cache than a large
network. `profiling.py` measures profiles, and the search uses profiles to predict the latency of candidates.
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

EMBEDDINGS_AND_CLASSIFIER, _FIRST_ONLY_PREFIX = "ends/", "first_"
_OUTER_PREFIXES = (EMBEDDINGS_AND_CLASSIFIER, _FIRST_ONLY_PREFIX)
"""The name prefixes of the parts that count as outer parts (see `PartSums`).

The outer parts are the embeddings with the classifier, and blocks that compute only the first token.
"""


class PartSums(NamedTuple):
    """The summed latencies of a network's parts. Each part was measured separately."""

    inner_ms: float
    """The sum over blocks that compute all tokens."""
    outer_ms: float
    """The sum over all other parts: the embeddings with the classifier, and blocks that compute only the first
    token."""

    @property
    def ms(self) -> float:
        """The total latency of all parts, in milliseconds."""
        return self.inner_ms + self.outer_ms


@dataclass(frozen=True)
class Fit:
    """A fitted function that predicts the latency of a network from the summed latencies of its parts."""

    offset_ms: float
    inner: float
    """The factor for the latencies of blocks that compute all tokens."""
    outer: float
    """The factor for the latencies of the embeddings, the classifier and blocks that compute only the first token."""
    bend: float = 0.0
    """A number that is added to both factors for the first `knee_ms` milliseconds of the sum over all parts.

    Profiles of older versions lack this number.
    """
    knee_ms: float = 0.0

    def at(self, parts: PartSums) -> float:
        """Return the predicted latency, in milliseconds, of a network from the summed latencies of its parts."""
        small = self.bend * min(parts.ms, self.knee_ms)
        return self.offset_ms + self.inner * parts.inner_ms + self.outer * parts.outer_ms + small


@dataclass(frozen=True)
class Profile:
    """The block latencies of a search space on one device, and the measured error of predictions."""

    device: Device
    environment: dict[str, Any]
    blocks_ms: dict[str, dict[str, float]]
    """The latency of each part in milliseconds, keyed by part name (see `part_name`) and then by number of tokens."""
    fit: Fit
    noise: tuple[float, ...]
    """How much the latency varies among runs on texts of the same length.

    The values are evenly spaced quantiles of the latency, divided by its median.
    """
    memory: tuple[float, float] | None
    """The offset and the slope of the linear function that predicts peak memory from stored size.

    Both sizes are in 10^6 bytes. None if no budget limits peak memory.
    """
    teacher: dict[str, float]
    """The metrics of the uncompressed teacher on this device, keyed by metric name.

    Limits in percent are relative to these metrics.
    """
    smallest_p50_ms: float
    """The measured median latency of the smallest sub-network of the space."""
    error: dict[str, float]
    """The prediction error on held-out sub-networks, which the fit does not use; see `record.error_of`."""
    held_out: list[dict[str, float]] = field(default_factory=list)
    """`predicted_ms` and `measured_ms` of each held-out sub-network."""
    noisy: bool = False
    """Whether the machine was disturbed during every attempt of at least one measurement."""
    readout: Readout = "first"
    """The tokens that the classifier reads.

    If the classifier reads only the first token, the last layers compute only this token.
    """

    @property
    def teacher_p50_ms(self) -> float:
        """The teacher's median latency in milliseconds."""
        return self.teacher["p50_ms"]

    def predict_ms(self, architecture: Architecture, exits: Sequence[float] = ()) -> float:
        """Return the predicted median latency of a sub-network in milliseconds; see `predict`."""
        return self.predict(architecture, exits)["p50_ms"]

    def predict(self, architecture: Architecture, exits: Sequence[float] = ()) -> dict[str, float]:
        """Return the predicted latency metrics of a sub-network, keyed by metric name.

        The metrics are computed over all text lengths in the device's settings. `exits` holds the share of texts that
        exit after each layer. If `exits` is empty, all texts pass through all layers.
        """
        parts = [part_sums(self.blocks_ms, architecture, length, self.readout) for length in self.device.lengths]
        shares = exits or (1.0,)  # one share per layer or, without exits, only one for the last layer
        depths = range(1, len(shares) + 1) if exits else (-1,)
        costs = [self.fit.at(sums[depth]) for depth in depths for sums in parts]
        if len(costs) == 1:
            median, p95, expected = (costs[0] * share for share in self._noise_factors)
        else:
            weights = [share / (len(parts) * len(self.noise)) for share in shares for _ in parts]
            latencies, latency_weights = np.outer(costs, self.noise).ravel(), np.repeat(weights, len(self.noise))
            median, p95, expected = _summary(latencies, latency_weights)
        return {
            "p50_ms": median,
            "p95_ms": p95,
            "expected_ms": expected,
            "worst_ms": max(self.fit.at(sums[-1]) for sums in parts),
            "throughput_per_s": throughput_per_s(self.device, expected),
        }

    @cached_property
    def _noise_factors(self) -> tuple[float, float, float]:
        """The median, the 95th percentile and the mean of `noise`.

        If all texts take equally long, the latency is multiplied by these factors to predict its median, 95th
        percentile and mean.
        """
        return _summary(np.array(self.noise), np.full(len(self.noise), 1.0 / len(self.noise)))

    def predict_memory_mb(self, stored_mb: float) -> float:
        """Return the predicted peak memory, in 10^6 bytes, of a process that serves a network of size `stored_mb`."""
        offset, slope = self.memory or (0.0, 0.0)
        return offset + slope * stored_mb

    def save(self, path: Path) -> None:
        """Write the profile as JSON."""
        write_json(path, asdict(self) | {"device": self.device.model_dump(mode="json")})

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile. Raises `DeviceError` if the file is missing, or is not a profile of this version of `nas`."""
        values = read_json(path, DeviceError)
        try:
            parsed = {
                "device": Device(**values["device"]),
                "fit": Fit(**values["fit"]),
                "noise": tuple(values["noise"]),
                "memory": tuple(values["memory"]) if values["memory"] else None,
            }
            return cls(**values | parsed)
        except (KeyError, TypeError, ValueError):
            raise DeviceError(
                f"{path}: not a profile of this version of nas; remove the file, and run nas profile"
            ) from None


def _summary(values: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Return the weighted median, 95th percentile and mean of values; the weights sum to 1."""
    return weighted_quantile(values, weights, 0.5), weighted_quantile(values, weights, 0.95), float(values @ weights)


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the value below which a `share` of the total weight lies.

    The weights must sum to 1. If the share falls exactly between two values, return the mean of the two.
    """
    order = np.argsort(values)
    order = order[weights[order] > 0.0]
    sorted_values, cumulative = values[order], np.cumsum(weights[order])
    index = min(int(np.searchsorted(cumulative, share - 1e-9)), len(sorted_values) - 1)
    if abs(cumulative[index] - share) < 1e-9 and index + 1 < len(sorted_values):
        return float(sorted_values[index : index + 2].mean())
    return float(sorted_values[index])


def part_sums(
    table: dict[str, dict[str, float]], architecture: Architecture, length: int, readout: Readout = "first"
) -> list[PartSums]:
    """Return the cumulative latencies of a network's parts for a text of `length` tokens.

    The first item covers the embeddings and the classifier, the second item adds the first layer, and so on. `table`
    holds the latencies of the parts (see `Profile.blocks_ms`). Latencies between the measured numbers of tokens are
    interpolated linearly.
    """

    def cost(part: str, tokens: int) -> float:
        latencies = table[part]
        if str(tokens) in latencies:
            return latencies[str(tokens)]
        return float(np.interp(tokens, [int(count) for count in latencies], list(latencies.values())))

    sums, inner, outer = list[PartSums](), 0.0, 0.0
    for stage in stages(architecture, length, readout):
        for part, tokens in stage:
            if part.startswith(_OUTER_PREFIXES):
                outer += cost(part, tokens)
            else:
                inner += cost(part, tokens)
        sums.append(PartSums(inner, outer))
    return sums


def stages(architecture: Architecture, length: int, readout: Readout = "first") -> Iterator[list[tuple[str, int]]]:
    """Yield one list for the embeddings and the classifier, which are a single part, and then one list for each layer.

    Each item of a list is a part, as a pair of its name in profiles (see `part_name`) and its number of input tokens.
    """
    hidden, tokens = architecture.hidden_size, length
    yield [(f"{EMBEDDINGS_AND_CLASSIFIER}{hidden}/{architecture.embedding}", tokens)]
    layers = architecture.resolved
    first_token_layer = first_token_from(layers, readout)
    for number, layer in enumerate(layers):
        options = ((block, *layer.option(block)) for block in LAYER_BLOCKS)
        first_only = number >= first_token_layer
        stage = [
            (part_name(block, hidden, size, choice, first_only), tokens) for block, size, choice in options if size
        ]
        if layer.keep_tokens:
            stage.append((f"dropping/{hidden}", tokens))
            tokens = min(tokens, layer.keep_tokens)
        yield stage


def part_name(block: Block, hidden: int, size: int, choice: str, first_only: bool) -> str:
    """Return the name under which profiles store a block's latency.

    `choice` names the compression method. `first_only` says whether the block computes only the first token instead of
    all tokens.
    """
    return f"{_FIRST_ONLY_PREFIX if first_only else ''}{block}/{hidden}/{size}/{choice}"
