"""Budgets: limits on figures of the exported sub-network, on one device or several.

A figure is known by one name everywhere: in budgets, predictions, measurements and verifications.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

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

Minimised = Literal["p50_ms", "p95_ms", "expected_ms", "worst_ms", "size_mb", "params"]
"""What a network with an accuracy floor may be asked to have least of."""
_FLOOR = ("accuracy", "accuracy_loss", "minimise")
_POINT = 0.01
"""A point of a metric."""

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
            raise ValueError(f"a budget needs at least one of {', '.join(FIGURES)}; add a limit, or accuracy_loss")
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


@dataclass(frozen=True)
class Floor:
    """The accuracy that a budget's network must keep on some texts, and what it shall have least of."""

    least: float
    """The floor itself."""
    teacher: float
    """The teacher's accuracy on these texts."""
    sure: float
    """An inherited accuracy that is above the floor by more than luck."""
    minimise: str
    """The name of a figure, of which less is better."""
    device: str
    """Where that figure is meant."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Inherited accuracies from which a final training may come up to the floor, from the surest on.

        Their distance to the teacher is once, twice and four times the one that is allowed, which counts as a point
        at least.
        """
        lost = max(self.teacher - self.least, _POINT)
        return (self.least, self.least - lost, self.least - 3.0 * lost)


class Budget(Settings):
    """Limits that one export must keep, all of them, and a floor that its accuracy must keep, if there is one.

    In a study file limits of a single device may stand beside the name: `device = "server"`, `p50_ms = "20%"`. With a
    floor what is minimised is limited by the teacher's own figure unless the study limits it.
    """

    name: Name
    limits: Annotated[tuple[Limits, ...], Field(min_length=1)]
    """The device that comes first is the one whose figures lead in reports."""
    accuracy: Annotated[float, Field(strict=True)] | None = None
    """The least of the study's metric, on the search set after the final training: 0.9 of accuracy, f1 or Spearman's
    correlation, whichever the study has."""
    accuracy_loss: Annotated[float, Field(strict=True)] | None = None
    """The most that the study's metric may be below the teacher's there, in points (hundredths)."""
    minimise: Minimised | None = None
    """What a network with a floor shall have least of, on the first device; the median latency where left out."""

    @model_validator(mode="before")
    @classmethod
    def _single(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if "limits" not in values:
            beside = {key: value for key, value in values.items() if key in ("name", *_FLOOR)}
            values = beside | {"limits": [{key: value for key, value in values.items() if key not in beside}]}
        return _limited_by_the_teacher(values) if {"accuracy", "accuracy_loss"} & values.keys() else values

    @model_validator(mode="after")
    def _minimises_with_a_floor(self) -> Budget:
        if self.minimise and not self.has_floor:
            raise ValueError(
                "minimise: is for the cheapest network that keeps an accuracy, but there is none to keep; add accuracy "
                "or accuracy_loss, or remove it"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_absent_floor(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The values; what belongs to a floor only where there is one, so that digests of other budgets stay."""
        return {name: value for name, value in handler(self).items() if value is not None or name not in _FLOOR}

    @field_validator("accuracy")
    @classmethod
    def _share(cls, value: float | None) -> float | None:
        if value is not None and not 0.0 < value <= 1.0:
            raise ValueError(f"must be above 0 and at most 1, as 0.9 for 90 %, but got {value:g}; correct it")
        return value

    @field_validator("accuracy_loss")
    @classmethod
    def _points(cls, value: float | None) -> float | None:
        if value is not None and not 0.0 <= value < 100.0:
            raise ValueError(f"must be points from 0 to below 100, as 1.0 for 0.01, but got {value:g}; correct it")
        return value

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

    @property
    def has_floor(self) -> bool:
        """Whether it asks for an accuracy."""
        return self.accuracy is not None or self.accuracy_loss is not None

    def floor(self, teacher: float, error: float) -> Floor | None:
        """Its floor, if it has one, on texts where the teacher's accuracy is known; luck adds `error` there at most."""
        asked = [] if self.accuracy is None else [self.accuracy]
        asked += [] if self.accuracy_loss is None else [teacher - self.accuracy_loss * _POINT]
        if not asked or not self.minimise:
            return None
        return Floor(max(asked), teacher, max(asked) + error, self.minimise, self.device)

    def on(self, device: str) -> Limits | None:
        """Its limits on a device, if there are some."""
        return next((limits for limits in self.limits if limits.device == device), None)


def _limited_by_the_teacher(values: dict[str, Any]) -> dict[str, Any]:
    """A budget with a floor, as it was given, with what is minimised and a limit of it."""
    minimise, limits = values.get("minimise") or "p50_ms", values["limits"]
    first = limits[0] if isinstance(limits, list | tuple) and limits else None
    if isinstance(first, Limits):
        first = first.model_dump(exclude_none=True)
    if not isinstance(first, dict):
        return values
    figure = minimise if minimise in get_args(Minimised) else "p50_ms"  # another is refused later
    first = first if first.get(figure) is not None else {**first, figure: "100%"}
    return {**values, "minimise": minimise, "limits": [first, *limits[1:]]}


def _number(value: str | float) -> float:
    try:
        return float(value.rstrip("% ")) if isinstance(value, str) else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return float("inf")
