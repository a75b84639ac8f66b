"""The result of a latency measurement: all samples, and the conditions under which they were taken.

`LatencyRecord` holds the samples of one network on one device. `measure.py` and `bundle.py` create records. Profiles,
the search and the verification of exports read percentiles of the samples. The functions in this module combine
records, derive the metrics that budgets limit, and compare predicted with measured latencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nas.device import Device

_UNDISTURBED_PERCENTILE = 5
"""The percentile of the samples that is taken as the latency of an undisturbed run."""
_MIXTURE_SAMPLES = 1000
"""The number of samples in the record that `mixture` returns."""


@dataclass(frozen=True)
class LatencyRecord:
    """The latency samples of one network on one device, in milliseconds, ordered by input length and then by time."""

    samples_ms: tuple[float, ...]
    device: Device
    environment: dict[str, Any]
    """The processor, the runtime and the versions that the measuring process used.

    The entry `fingerprint` is a hash of all other entries.
    """
    measured_at: str
    """The date and time of the measurement, in ISO format and UTC."""
    spread: float = 0.0
    """The interquartile range of the samples, divided by their median.

    If there are several text lengths, this ratio is computed for each length, and `spread` is the median of the ratios.
    A value above 0.15 suggests that the machine was disturbed.
    """
    drift: float = 0.0
    """The relative change of the reference network's median latency between the start and the end of the
    measurement."""
    noisy: bool = False
    """Whether the machine was disturbed during every attempt to measure the network's group."""
    reference_ms: float = 1.0
    """The `best_ms` of the reference network that was interleaved with this network's group; 1 if there was none."""

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile (0 to 100) of the samples, in milliseconds."""
        return float(np.percentile(self.samples_ms, percent))

    @property
    def best_ms(self) -> float:
        """The latency of an undisturbed run: a low percentile, because disturbances only add time."""
        return self.percentile_ms(_UNDISTURBED_PERCENTILE)

    def scaled(self, factor: float) -> LatencyRecord:
        """Return a copy of the record with all latencies multiplied by `factor`."""
        samples = tuple(sample * factor for sample in self.samples_ms)
        return replace(self, samples_ms=samples, reference_ms=self.reference_ms * factor)

    def by_length(self) -> np.ndarray:
        """Return the samples as an array with the shape (lengths, samples per length).

        This works only if the network was fed texts of all the device's lengths.
        """
        return np.reshape(self.samples_ms, (len(self.device.lengths), -1))

    @property
    def p50_ms(self) -> float:
        """The median latency in milliseconds."""
        return self.percentile_ms(50)

    @property
    def p95_ms(self) -> float:
        """The 95th percentile of the latency in milliseconds."""
        return self.percentile_ms(95)

    @property
    def expected_ms(self) -> float:
        """The mean latency in milliseconds."""
        return float(np.mean(self.samples_ms))

    @property
    def longest_ms(self) -> float:
        """The median latency of the longest texts in milliseconds.

        The largest samples are assumed to belong to the longest texts.
        """
        lengths = sorted(self.device.lengths)
        share = lengths.count(lengths[-1]) / len(lengths)
        return self.percentile_ms(100 * (1.0 - share / 2))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with percentiles, disturbances, the measurement conditions and all samples."""
        return {
            "unit": "ms",
            "p50_ms": round(self.p50_ms, 4),
            "p90_ms": round(self.percentile_ms(90), 4),
            "p95_ms": round(self.p95_ms, 4),
            "expected_ms": round(self.expected_ms, 4),
            "p99_ms": round(self.percentile_ms(99), 4),
            "spread": round(self.spread, 4),
            "drift": round(self.drift, 4),
            "noisy": self.noisy,
            "device": self.device.model_dump(mode="json"),
            "environment": self.environment,
            "measured_at": self.measured_at,
            "samples_ms": [round(sample, 4) for sample in self.samples_ms],
        }

    def summary(self) -> dict[str, Any]:
        """Return the JSON object of `to_json` without the samples."""
        return {key: value for key, value in self.to_json().items() if key != "samples_ms"}


def latency_metrics(record: LatencyRecord, worst: LatencyRecord | None = None) -> dict[str, float]:
    """Return the latency metrics that a budget may limit, keyed by metric name.

    For a network with early exits, `worst` is the record of a measurement in which every text runs through all layers.
    """
    return {
        "p50_ms": record.p50_ms,
        "p95_ms": record.p95_ms,
        "expected_ms": record.expected_ms,
        "worst_ms": (worst or record).longest_ms,
        "throughput_per_s": throughput_per_s(record.device, record.expected_ms),
    }


def throughput_per_s(device: Device, expected_ms: float) -> float:
    """Return how many texts per second a device serves if batches follow each other without a pause.

    `expected_ms` is the mean latency of a batch.
    """
    return 1e3 * device.batch_size / expected_ms


def pooled(records: Sequence[LatencyRecord]) -> LatencyRecord:
    """Merge several records of the same network into one, keeping the samples of each length together."""
    samples = np.concatenate([record.by_length() for record in records], axis=1)
    return replace(
        records[0],
        samples_ms=tuple(samples.ravel().tolist()),
        spread=max(record.spread for record in records),
        drift=max(record.drift for record in records),
        noisy=any(record.noisy for record in records),
    )


def mixture(records: Sequence[LatencyRecord], shares: Sequence[float]) -> LatencyRecord:
    """Return a record that mixes `records` in proportion to `shares`.

    Each record contributes evenly spaced quantiles of its samples. The number of quantiles is proportional to the
    record's share.
    """
    samples: list[float] = []
    for record, share in zip(records, shares, strict=True):
        count = round(_MIXTURE_SAMPLES * share)
        samples += np.quantile(record.samples_ms, (np.arange(count) + 0.5) / max(count, 1)).tolist()
    return replace(records[-1], samples_ms=tuple(samples))


def error_of(predicted: list[float], measured: list[float]) -> dict[str, float]:
    """Return the errors of predictions, keyed by the name of the error measure.

    `mape` and `worst` are the mean and the largest absolute relative error: 0.05 means 5 % of the measured latency.
    `kendall_tau` is Kendall's rank correlation. `networks` is the number of networks.
    """
    from scipy.stats import kendalltau

    predictions, measurements = np.asarray(predicted), np.asarray(measured)
    relative = np.abs(predictions - measurements) / measurements
    tau = float(kendalltau(predictions, measurements).statistic) if len(measurements) > 1 else 1.0
    return {
        "mape": round(float(relative.mean()), 4),
        "worst": round(float(relative.max()), 4),
        "kendall_tau": round(tau if np.isfinite(tau) else 0.0, 4),
        "networks": len(measurements),
    }
