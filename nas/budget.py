"""Budgets: limits on figures of the exported sub-network, on one device or several.

A figure is known by one name everywhere: in budgets, predictions, measurements and verifications.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from nas.device import Name
from nas.files import Settings

LATENCIES = ("p50_ms", "p95_ms", "expected_ms", "worst_ms")
RATES = ("throughput_per_s",)
"""More is better; of all other figures less."""
STORED = ("size_mb", "params")
"""What the files say, whatever the device."""
FIGURES = (*LATENCIES, *RATES, "peak_memory_mb", *STORED)

TRIAL = "trial-"
"""How the names of single candidates' exports begin."""

Figures = Mapping[str, float]
"""Values by those names."""
Limit = str | float | None
"""A value in the figure's unit, or a share of the uncompressed teacher's on the same device, as "20%"."""


class Limits(Settings):
    """Limits on one device, kept all."""

    device: Name
    p50_ms: Limit = None
    """Median latency."""
    p95_ms: Limit = None
    """The latency that 95 of 100 texts (or batches) keep."""
    expected_ms: Limit = None
    """Mean latency; where texts leave a network early it is what a server's load depends on."""
    worst_ms: Limit = None
    """Median latency of the longest texts through all layers."""
    throughput_per_s: Limit = None
    """Texts a second, one batch after the other: at least that many."""
    peak_memory_mb: Limit = None
    """The most memory that a process which serves just this network holds, in 10^6 bytes, its runtime included."""
    size_mb: Limit = None
    """Size of the exported weights in 10^6 bytes."""
    params: Limit = None
    """Number of parameters."""

    @field_validator(*FIGURES, mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if not isinstance(value, str | int | float | None) or isinstance(value, bool):
            raise ValueError(f'must be a number or a share such as "20%", but got {value!r}; correct it')
        if isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)?\s?%", value):
            raise ValueError(f'must be a number or a share such as "20%", but got {value!r}; correct it')
        if value is not None and not 0.0 < _number(value) < float("inf"):
            raise ValueError(f"must be above zero and finite, but got {value!r}; correct it")
        return value

    @model_validator(mode="after")
    def _some(self) -> Limits:
        if not self.given:
            raise ValueError(f"a budget needs at least one of {', '.join(FIGURES)}; add a limit")
        return self

    @cached_property
    def given(self) -> dict[str, str | float]:
        """The limits that there are, as they were written."""
        return {name: limit for name in FIGURES if (limit := getattr(self, name)) is not None}

    def values(self, teacher: Figures) -> dict[str, float]:
        """The limits that there are, in the figures' units. Shares are of the teacher's figure of that name."""
        return {name: self.value(name, teacher) for name in self.given}

    def value(self, name: str, teacher: Figures) -> float:
        """One of the limits that there are, likewise."""
        limit = self.given[name]
        return _number(limit) / 100.0 * teacher[name] if isinstance(limit, str) else float(limit)

    def excess(self, figures: Figures, teacher: Figures) -> float:
        """By how much the worst figure misses its limit, relative to the limit; at most 0 if all are kept."""
        return max(
            (limit / figures[name] if name in RATES else figures[name] / limit) - 1.0
            for name, limit in self.values(teacher).items()
        )


class Budget(Settings):
    """Limits that one export must keep, all of them.

    In a study file those of a single device may stand beside the name: `device = "server"`, `p50_ms = "20%"`.
    """

    name: Name
    limits: Annotated[tuple[Limits, ...], Field(min_length=1)]
    """The device that comes first is the one whose figures lead in reports."""

    @model_validator(mode="before")
    @classmethod
    def _single(cls, values: Any) -> Any:
        if isinstance(values, dict) and "limits" not in values:
            own = {key: value for key, value in values.items() if key != "name"}
            return {key: value for key, value in values.items() if key == "name"} | {"limits": [own]}
        return values

    @field_validator("name")
    @classmethod
    def _no_candidate(cls, name: str) -> str:
        if name.startswith(TRIAL):
            raise ValueError(f"must not begin with {TRIAL!r} as single candidates do, but got {name!r}; rename it")
        return name

    @model_validator(mode="after")
    def _devices_once(self) -> Budget:
        repeated = next((name for name in self.devices if self.devices.count(name) > 1), None)
        if repeated:
            raise ValueError(f"limits: each device may stand once, but {repeated!r} stands twice; join them")
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of its devices."""
        return tuple(limits.device for limits in self.limits)

    @property
    def device(self) -> str:
        """The device that comes first."""
        return self.devices[0]

    def on(self, device: str) -> Limits | None:
        """Its limits on a device, if there are some."""
        return next((limits for limits in self.limits if limits.device == device), None)


def _number(value: str | float) -> float:
    try:
        return float(value.rstrip("% ")) if isinstance(value, str) else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return float("inf")
