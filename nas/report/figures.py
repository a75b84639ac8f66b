"""Figures as text: as many digits as a reader needs, with their unit."""

from __future__ import annotations

import math
from typing import Any

from nas.study import Budget

_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def significant(value: float, digits: int = 3) -> str:
    """A number with that many significant digits, never in scientific notation."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def milliseconds(value: float) -> str:
    """`0.0482 ms`, `33.4 ms`."""
    return f"{significant(value)} ms"


def score(value: float, error: float | None = None) -> str:
    """A metric, with its standard error where it has one."""
    return f"{value:.4f}" + (f" ± {error:.4f}" if error else "")


def points(difference: float) -> str:
    """A difference of a metric in hundredths, with its sign: `+0.8 points`."""
    rounded = round(100.0 * difference, 1)
    sign = "+" if rounded > 0 else _MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f} points"


def times(value: float) -> str:
    """A speed-up: 11.1 and the sign."""
    return f"{value:.1f}{_TIMES}"


def percent(value: float) -> str:
    """`3.8 %`."""
    return f"{100.0 * value:.1f} %"


def duration(seconds: float) -> str:
    """`44 s`, `12 min`, `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def limits(budget: Budget, teacher_p50_ms: float | None) -> list[str]:
    """What a budget asks: `p50 ≤ 6.7 ms = 20% of the teacher's`, `size ≤ 20 MB`."""
    found = []
    for name, limit in budget.latency_limits_ms(teacher_p50_ms or 0.0).items():
        given, words = getattr(budget, name), name.removesuffix("_ms")
        if isinstance(given, str):
            known = f"{milliseconds(limit)} = " if teacher_p50_ms is not None else ""
            found.append(f"{words} ≤ {known}{given} of the teacher's" + ("" if name == "p50_ms" else " median"))
        else:
            found.append(f"{words} ≤ {milliseconds(limit)}")
    if budget.size_mb is not None:
        found.append(f"size ≤ {significant(budget.size_mb)} MB")
    if budget.params is not None:
        found.append(f"parameters ≤ {budget.params:,}")
    return found


def other_latencies(found: Any) -> list[str]:
    """What a budget limits besides the median, as measured: `mean 3.1 ms`, `longest 4.2 ms`."""
    names = {"expected_ms": "mean", "worst_ms": "longest"}
    asked = found["budget"] or {}
    return [f"{word} {milliseconds(found[name])}" for name, word in names.items() if asked.get(name) is not None]


def conditions(device: Any, environment: Any) -> str:
    """How a latency was measured: runtime and version, threads, batch, tokens, processor."""
    threads = f"{device['threads']} thread" + ("s" if device["threads"] != 1 else "")
    parts = [f"{device['runtime']} {environment.get('runtime_version', '')}".strip(), threads]
    parts += [f"batch {device['batch_size']}", _tokens(device["sequence_length"])]
    return ", ".join([*parts, *filter(None, [environment.get("processor", "")])])


def _tokens(lengths: int | list[int]) -> str:
    if isinstance(lengths, int):
        return f"{lengths} tokens"
    return f"texts of {min(lengths)} to {max(lengths)} tokens"
