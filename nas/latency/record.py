"""What a latency measurement leaves: every sample, with the conditions it was taken under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nas.device import Device

_UNDISTURBED = 5
"""The percentile of samples that counts as undisturbed."""
_MIXED = 1000
"""Samples of a mixture."""


@dataclass(frozen=True)
class LatencyRecord:
    """Samples of one network on one device, in milliseconds, in the order they were taken."""

    samples_ms: tuple[float, ...]
    device: Device
    environment: dict[str, Any]
    """Processor, runtime and their versions, as read in the measuring process; `fingerprint` sums them up."""
    measured_at: str
    spread: float = 0.0
    """Interquartile range over median among samples of one length: above 0.15 the measurement was disturbed."""
    drift: float = 0.0
    """By how much a reference network was slower or faster after the measurement than before."""
    noisy: bool = False
    """Whether the machine was disturbed, also when it was measured again."""
    reference_ms: float = 1.0
    """What that network took at best which is measured in turns with each of several groups; 1 where there is none."""

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the samples, in milliseconds."""
        return float(np.percentile(self.samples_ms, percent))

    @property
    def best_ms(self) -> float:
        """What it takes undisturbed: disturbances only ever add time."""
        return self.percentile_ms(_UNDISTURBED)

    def scaled(self, factor: float) -> LatencyRecord:
        """The record as it would be on a machine that takes `factor` times as long."""
        samples = tuple(sample * factor for sample in self.samples_ms)
        return replace(self, samples_ms=samples, reference_ms=self.reference_ms * factor)

    def by_length(self) -> np.ndarray:
        """The samples of a network that was fed all of the device's lengths, (lengths, samples of each)."""
        return np.reshape(self.samples_ms, (len(self.device.lengths), -1))

    @property
    def p50_ms(self) -> float:
        """The median."""
        return self.percentile_ms(50)

    @property
    def p95_ms(self) -> float:
        """The 95th percentile."""
        return self.percentile_ms(95)

    @property
    def expected_ms(self) -> float:
        """The mean."""
        return float(np.mean(self.samples_ms))

    @property
    def longest_ms(self) -> float:
        """The median of the longest texts, where texts of several lengths were fed as often each."""
        lengths = sorted(self.device.lengths)
        share = lengths.count(lengths[-1]) / len(lengths)
        return self.percentile_ms(100 * (1.0 - share / 2))

    def to_json(self) -> dict[str, Any]:
        """The JSON form, percentiles first."""
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
        """The JSON form without the samples."""
        return {key: value for key, value in self.to_json().items() if key != "samples_ms"}


def latency_figures(record: LatencyRecord, worst: LatencyRecord | None = None) -> dict[str, float]:
    """What budgets may limit. `worst` is that of all layers, for networks that texts leave early."""
    return {
        "p50_ms": record.p50_ms,
        "p95_ms": record.p95_ms,
        "expected_ms": record.expected_ms,
        "worst_ms": (worst or record).longest_ms,
        "throughput_per_s": throughput_per_s(record.device, record.expected_ms),
    }


def throughput_per_s(device: Device, expected_ms: float) -> float:
    """Texts a second where one batch follows the other."""
    return 1e3 * device.batch_size / expected_ms


def pooled(records: Sequence[LatencyRecord]) -> LatencyRecord:
    """One record of all samples of one network that was measured several times, those of each length together."""
    samples = np.concatenate([record.by_length() for record in records], axis=1)
    return replace(
        records[0],
        samples_ms=tuple(samples.ravel().tolist()),
        spread=max(record.spread for record in records),
        drift=max(record.drift for record in records),
        noisy=any(record.noisy for record in records),
    )


def mixture(records: Sequence[LatencyRecord], shares: Sequence[float]) -> LatencyRecord:
    """One record of texts that take either of several ways, each as often as its share says.

    Of each way's samples so many quantiles are taken as its share of a thousand.
    """
    samples: list[float] = []
    for record, share in zip(records, shares, strict=True):
        count = round(_MIXED * share)
        samples += np.quantile(record.samples_ms, (np.arange(count) + 0.5) / max(count, 1)).tolist()
    return replace(records[-1], samples_ms=tuple(samples))


def error_of(predicted: list[float], measured: list[float]) -> dict[str, float]:
    """How far predictions were off: mean absolute and worst percentage error, and Kendall's tau."""
    from scipy.stats import kendalltau

    expected, found = np.asarray(predicted), np.asarray(measured)
    relative = np.abs(expected - found) / found
    tau = float(kendalltau(expected, found).statistic) if len(found) > 1 else 1.0
    return {
        "mape": round(float(relative.mean()), 4),
        "worst": round(float(relative.max()), 4),
        "kendall_tau": round(tau if np.isfinite(tau) else 0.0, 4),
        "networks": len(found),
    }
