"""Budgets: limits on the costs of an exported network on one or more devices, and optionally a minimum accuracy.

Costs are latencies, throughput, memory, size and parameters (`COST_METRICS`). Each of these metrics has the same name
in budgets, predictions, measurements and verifications. A study file defines one `Budget` per export, with `Limits` for
each device. The search and the export check whether candidates meet these limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from nas.device import Name
from nas.errors import shown
from nas.files import Settings

LATENCIES = ("p50_ms", "p95_ms", "expected_ms", "worst_ms")
RATES = ("throughput_per_s",)
"""Cost metrics for which higher values are better. For all other cost metrics, lower values are better."""
STORED = ("size_mb", "params")
"""Metrics that depend only on the exported files, not on the device."""
COST_METRICS = (*LATENCIES, *RATES, "peak_memory_mb", *STORED)

TRIAL = "trial-"
"""The prefix of the name of an export that is written for a single candidate (trial) instead of a budget."""
_BASELINES = ("teacher", "teacher-int8", "static")
"""The names of networks that tables show alongside the exports."""

Minimised = Literal["p50_ms", "p95_ms", "expected_ms", "worst_ms", "size_mb", "params"]
"""The metrics that a budget with a minimum accuracy can minimise."""
_FLOOR_FIELDS = ("accuracy", "accuracy_loss", "minimise")
_POINT = 0.01
"""One point (one hundredth) of the task's metric."""

CostMetrics = Mapping[str, float]
"""Values of cost metrics, keyed by metric name."""
Limit = str | float | None
"""A number in the unit of the metric, a percentage such as "20%" of the uncompressed teacher's value on the same
device, or None if there is no limit.
"""


class Limits(Settings):
    """Limits on the costs of a network on one device. All of these limits must be met."""

    device: Name
    p50_ms: Limit = None
    """Median latency."""
    p95_ms: Limit = None
    """95th percentile of the latency."""
    expected_ms: Limit = None
    """Mean latency. For networks with early exits, this mean (not the median) determines the load of a server."""
    worst_ms: Limit = None
    """Median latency of the longest texts if they take no early exit."""
    throughput_per_s: Limit = None
    """Minimum number of texts per second if batches run one after the other."""
    peak_memory_mb: Limit = None
    """Peak memory, in 10^6 bytes, of a process that serves only this network, including the memory of the runtime."""
    size_mb: Limit = None
    """Size of the exported weights in 10^6 bytes."""
    params: Limit = None
    """Number of parameters."""

    @field_validator(*COST_METRICS, mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float | None) and not isinstance(value, bool)
        is_share = isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?\s?%", value)
        if not is_number and not is_share:
            raise ValueError(f'must be a number or a percentage such as "20%", but got {shown(value)}')
        if value is not None and not 0.0 < _number(value) < float("inf"):
            raise ValueError(f"must be above zero and finite, but got {shown(value)}")
        return value

    @model_validator(mode="after")
    def _has_a_limit(self) -> Limits:
        if not self.given:
            raise ValueError(
                f"must set at least one of {', '.join(COST_METRICS)}, but sets none; add a limit or, if "
                "this is the first device of the budget, set accuracy or accuracy_loss in the budget"
            )
        return self

    @cached_property
    def given(self) -> dict[str, str | float]:
        """The limits that the study sets, keyed by metric name, as written in the study file."""
        return {name: limit for name in COST_METRICS if (limit := getattr(self, name)) is not None}

    def values(self, teacher: CostMetrics) -> dict[str, float]:
        """Return the limits that the study sets, keyed by metric name and converted to the unit of the metric.

        A percentage refers to the value in `teacher`.
        """
        return {name: self.value(name, teacher) for name in self.given}

    def value(self, name: str, teacher: CostMetrics) -> float:
        """Return the limit on a metric in the metric's unit. A percentage refers to the value in `teacher`."""
        limit = self.given[name]
        return _number(limit) / 100.0 * teacher[name] if isinstance(limit, str) else float(limit)

    def violation(self, metrics: CostMetrics, teacher: CostMetrics) -> float:
        """Return the largest excess over a limit, relative to that limit: at most 0 if all limits are met.

        For example, 0.1 means that a latency is 10 % above its limit, or that a rate must rise by 10 % to meet its
        limit.
        """
        return max(
            (limit / metrics[name] if name in RATES else metrics[name] / limit) - 1.0
            for name, limit in self.values(teacher).items()
        )


@dataclass(frozen=True)
class Floor:
    """The minimum accuracy (the floor) that a budget requires, and the cost metric to minimise."""

    minimum: float
    """The minimum accuracy on the texts on which networks are evaluated."""
    teacher: float
    """The teacher's accuracy on the same texts."""
    confident: float
    """The minimum accuracy of networks that still use the supernet's weights: `minimum` plus the selection bias.

    The selection bias is the amount by which a candidate's accuracy may be overestimated, because the candidate was
    selected on the same texts.
    """
    minimise: str
    """The name of the cost metric to minimise."""
    device: str
    """The device on which this metric is minimised."""

    def to_json(self) -> dict[str, Any]:
        """Return the floor as the JSON object that `front.json` stores."""
        return {
            "least": self.minimum,
            "teacher": self.teacher,
            "sure": self.confident,
            "minimise": self.minimise,
            "device": self.device,
        }

    @property
    def levels(self) -> tuple[float, ...]:
        """Three accuracies, in descending order, from which the final training may still raise a network to the floor.

        They are accuracies before the final training, when networks use the supernet's weights. The first accuracy is
        the floor itself. The second accuracy is lower by the permitted loss, and the third is lower by three times this
        loss. The permitted loss is the teacher's accuracy minus the floor, but at least one point.
        """
        allowed_loss = max(self.teacher - self.minimum, _POINT)
        return (self.minimum, self.minimum - allowed_loss, self.minimum - 3.0 * allowed_loss)


class Budget(Settings):
    """All limits that one exported network must meet, and optionally a minimum accuracy (a floor).

    In a study file, the limits of a single device may be written next to the name: `device = "server"`, `p50_ms =
    "20%"`. If a floor is set, the limit on the metric to minimise defaults to the teacher's value.
    """

    name: Name
    limits: Annotated[tuple[Limits, ...], Field(min_length=1)]
    """The limits on each device. Reports show the costs on the first device."""
    accuracy: Annotated[float, Field(strict=True)] | None = None
    """The minimum value, such as 0.9, of the task's metric (accuracy, F1, Spearman's correlation, ...) on the search
    set after the final training.
    """
    accuracy_loss: Annotated[float, Field(strict=True)] | None = None
    """The maximum number of points (hundredths) by which the task's metric on the search set may be below the
    teacher's.
    """
    minimise: Minimised | None = None
    """The cost metric to minimise on the first device, if the budget has a minimum accuracy. The default is then
    `p50_ms`.
    """

    @model_validator(mode="before")
    @classmethod
    def _with_list_of_limits(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if "limits" not in values:
            budget_settings = {key: value for key, value in values.items() if key in ("name", *_FLOOR_FIELDS)}
            values = budget_settings | {
                "limits": [{key: value for key, value in values.items() if key not in budget_settings}]
            }
        return _with_floor_defaults(values) if {"accuracy", "accuracy_loss"} & values.keys() else values

    @model_validator(mode="after")
    def _minimises_with_a_floor(self) -> Budget:
        if self.minimise and not self.has_floor:
            raise ValueError(
                "minimise: needs an accuracy floor, but this budget has none; add accuracy or accuracy_loss, or remove "
                "minimise"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_absent_floor(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out unset fields of the floor, so that they do not change the digest of a budget without a floor."""
        return {name: value for name, value in handler(self).items() if value is not None or name not in _FLOOR_FIELDS}

    @field_validator("accuracy")
    @classmethod
    def _accuracy_in_range(cls, value: float | None) -> float | None:
        if value is not None and not 0.0 < value <= 1.0:
            raise ValueError(f"must be above 0 and at most 1 (0.9 means 90 %), but got {value:g}")
        return value

    @field_validator("accuracy_loss")
    @classmethod
    def _loss_in_range(cls, value: float | None) -> float | None:
        if value is not None and not 0.0 <= value < 100.0:
            raise ValueError(f"must be at least 0 and below 100 points (1.0 means 0.01), but got {value:g}")
        return value

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name.casefold().startswith(TRIAL):
            raise ValueError(
                f"must not begin with {TRIAL!r} (reserved for trials), but got {name!r}; rename the budget"
            )
        if name.casefold() in _BASELINES:
            raise ValueError(
                f"must not be one of {', '.join(_BASELINES)} (reserved for the networks with which exports are "
                f"compared), but got {name!r}; rename the budget"
            )
        return name

    @model_validator(mode="after")
    def _each_device_once(self) -> Budget:
        repeated = next((name for name in self.devices if self.devices.count(name) > 1), None)
        if repeated:
            raise ValueError(
                f"limits: each device may occur only once, but {repeated!r} occurs more than once; merge its limits"
            )
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the devices on which the budget sets limits, in the order of the study file."""
        return tuple(limits.device for limits in self.limits)

    @property
    def device(self) -> str:
        """The name of the budget's first device."""
        return self.devices[0]

    @property
    def has_floor(self) -> bool:
        """Whether the budget requires a minimum accuracy, either as an absolute value or relative to the teacher."""
        return self.accuracy is not None or self.accuracy_loss is not None

    def floor(self, teacher: float, error: float) -> Floor | None:
        """Return the accuracy floor, or None if the budget requires no minimum accuracy.

        `teacher` is the teacher's accuracy on the texts on which candidates are evaluated. `error` is the amount by
        which chance may raise the accuracy of a selected candidate on these texts.
        """
        minimums = [] if self.accuracy is None else [self.accuracy]
        minimums += [] if self.accuracy_loss is None else [teacher - self.accuracy_loss * _POINT]
        if not minimums or not self.minimise:
            return None
        return Floor(max(minimums), teacher, max(minimums) + error, self.minimise, self.device)

    def on(self, device: str) -> Limits | None:
        """Return the budget's limits on a device, or None if it has no limits on that device."""
        return next((limits for limits in self.limits if limits.device == device), None)


def _with_floor_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a budget that requires a minimum accuracy, with defaults for missing settings.

    The default metric to minimise is `p50_ms`. The default limit on this metric is the teacher's value.
    """
    minimise, limits = values.get("minimise") or "p50_ms", values["limits"]
    first = limits[0] if isinstance(limits, list | tuple) and limits else None
    if isinstance(first, Limits):
        first = first.model_dump(exclude_none=True)
    if not isinstance(first, dict):
        return values
    metric = minimise if minimise in get_args(Minimised) else "p50_ms"  # any other value is rejected later
    first = first if first.get(metric) is not None else {**first, metric: "100%"}
    return {**values, "minimise": minimise, "limits": [first, *limits[1:]]}


def _number(value: str | float) -> float:
    try:
        return float(value.rstrip("% ")) if isinstance(value, str) else float(value)
    except OverflowError:  # an integer with hundreds of digits
        return float("inf")
