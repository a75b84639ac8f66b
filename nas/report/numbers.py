"""Formatting of numbers, with units and a sensible number of digits, for tables, charts and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nas.budget import RATES, STORED, Budget
from nas.device import Device
from nas.errors import counted

_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def significant(value: float) -> str:
    """Return a number with three significant digits and thousands separators, never in scientific notation."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


UNKNOWN = "not measured yet"


def milliseconds(value: float | None) -> str:
    """Return a latency with its unit, such as `0.0482 ms` or `33.4 ms`, or `UNKNOWN` if it is None."""
    return UNKNOWN if value is None else f"{significant(value)} ms"


def score(value: float, error: float | None = None) -> str:
    """Return a metric's value with four decimals. If there is a standard error, it is added: `0.8125 ± 0.0117`."""
    return f"{value:.4f}" + (f" ± {error:.4f}" if error else "")


def accuracies(teacher: Mapping[str, Any]) -> str:
    """Describe a teacher's accuracy on the search set and, if it was computed, on the test set."""
    tested = "" if teacher["test_accuracy"] is None else f", {score(teacher['test_accuracy'])} on the test set"
    return f"{teacher['metric']} {score(teacher['search_accuracy'])} on the search set{tested}"


def points(difference: float) -> str:
    """Return the difference of two metric values in points (hundredths), with its sign, such as `+0.8 points`."""
    rounded = round(100.0 * difference, 1)
    sign = "+" if rounded > 0 else _MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f} points"


def in_points(value: float) -> str:
    """Return a number of points (hundredths of a metric) with its unit, such as `1 point` or `0.5 points`."""
    return f"{value:g} point" + ("" if value == 1.0 else "s")


def times(value: float | None) -> str:
    """Return a speed-up with one decimal and the multiplication sign, or `UNKNOWN` if it is None."""
    return UNKNOWN if value is None else f"{value:.1f}{_TIMES}"


def percent(value: float) -> str:
    """Return a fraction as a percentage, such as `3.8 %` for 0.038."""
    return f"{100.0 * value:.1f} %"


def duration(seconds: float) -> str:
    """Return a number of seconds as a readable duration, such as `44 s`, `12 min` or `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


# The name that is shown for each cost metric, and the metric's unit.
_METRIC_NAMES = {
    "p50_ms": ("p50", "ms"),
    "p95_ms": ("p95", "ms"),
    "expected_ms": ("mean", "ms"),
    "worst_ms": ("longest texts", "ms"),
    "throughput_per_s": ("throughput", "texts/s"),
    "peak_memory_mb": ("memory", "MB"),
    "size_mb": ("size", "MB"),
    "params": ("parameters", ""),
}


def metric_in_words(name: str, value: float | None) -> str:
    """Return the name, value and unit of a cost metric, such as `mean 3.1 ms` or `parameters 758,760`."""
    word, unit = _METRIC_NAMES[name]
    if value is None:
        return f"{word} {UNKNOWN}"
    return f"{word} {value:,.0f}" if not unit else f"{word} {significant(value)} {unit}"


def limits(budget: Budget, teacher: Mapping[str, float], several: bool = False) -> list[str]:
    """Return the conditions of a budget, such as `p50 ≤ 6.7 ms = 20% of the teacher's` and `size ≤ 20 MB`.

    `teacher` contains the known metrics of the teacher on the budget's first device. If the study has several devices
    (`several`), or if the budget has limits on several devices, each limit includes the name of its device.
    """
    all_conditions = _floor_in_words(budget)
    for device_limits in budget.limits:
        for name, limit in device_limits.given.items():
            if budget.has_floor and (device_limits.device, name, limit) == (budget.device, budget.minimise, "100%"):
                continue  # this is the default limit of the minimised metric
            word, sign = _METRIC_NAMES[name][0], "≥" if name in RATES else "≤"
            if isinstance(limit, str):
                is_known = name in teacher and device_limits.device == budget.device
                value = (
                    f"{metric_in_words(name, device_limits.value(name, teacher)).removeprefix(word + ' ')} = "
                    if is_known
                    else ""
                )
                text = f"{word} {sign} {value}{limit} of the teacher's"
            else:
                text = f"{word} {sign} {metric_in_words(name, limit).removeprefix(word + ' ')}"
            all_conditions.append(text + (f" on {device_limits.device}" if several or len(budget.limits) > 1 else ""))
    return all_conditions


def limits_of(verification: Mapping[str, Any]) -> list[str]:
    """Return the conditions of the budget in a verification record, as formatted by `limits`.

    The list is empty if the record has no budget.
    """
    if not verification["budget"]:
        return []
    teacher = {} if verification["teacher_p50_ms"] is None else {"p50_ms": verification["teacher_p50_ms"]}
    return limits(Budget.model_validate(verification["budget"]), teacher)


def _floor_in_words(budget: Budget) -> list[str]:
    """Return the minimum accuracy and the metric to minimise, such as `accuracy ≥ 0.9` and `minimum p50`."""
    texts = [] if budget.accuracy is None else [f"accuracy ≥ {budget.accuracy:g}"]
    if budget.accuracy_loss is not None:
        texts.append(f"accuracy at most {in_points(budget.accuracy_loss)} below the teacher's")
    return [*texts, *([f"minimum {_METRIC_NAMES[budget.minimise][0]}"] if budget.minimise else [])]


def other_metrics(verification: Any) -> list[str]:
    """Return the measured values of the metrics that a budget limits, such as `mean 3.1 ms`.

    `verification` is a verification record. Metrics that have their own column in the tables are left out: size,
    parameters, and the median latency on the budget's first device. A value on any other device includes the name of
    the device, as in `longest texts 4.2 ms on phone`.
    """
    budget_limits = Budget.model_validate(verification["budget"]).limits if verification["budget"] else ()
    texts = []
    for device_limits in budget_limits:
        is_first = device_limits.device == budget_limits[0].device
        measurements = verification if is_first else verification["devices"][device_limits.device]
        names = [name for name in device_limits.given if name not in (STORED if not is_first else (*STORED, "p50_ms"))]
        texts += [
            metric_in_words(name, measurements.get(name)) + ("" if is_first else f" on {device_limits.device}")
            for name in names
        ]
    return texts


def verdict(met: bool | None) -> str:
    """Return `yes` if a budget is met and `no` if it is not. Return `UNKNOWN` if `met` is None."""
    return UNKNOWN if met is None else "yes" if met else "no"


def conditions(device: Any, environment: Any) -> str:
    """Return how a latency was measured: runtime, version, threads, batch size, text lengths and processor."""
    threads = counted(device["threads"], "thread")
    runtime = Device.model_validate(device).runtime_in_words
    parts = [f"{runtime} {environment.get('runtime_version', '')}".strip(), threads]
    parts += [f"batch {device['batch_size']}", _tokens(device["sequence_length"])]
    return ", ".join([*parts, *filter(None, [environment.get("processor", "")])])


def _tokens(lengths: int | list[int] | dict[str, int]) -> str:
    if isinstance(lengths, int):
        return f"{lengths} tokens"
    lengths = [int(length) for length in lengths]
    if min(lengths) == max(lengths):
        return f"{lengths[0]} tokens"
    return f"texts of {min(lengths)} to {max(lengths)} tokens"
