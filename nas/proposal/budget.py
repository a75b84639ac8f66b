"""Budgets in the notation of `nas init --budget`."""

from __future__ import annotations

import json
import math
import re
import tomllib
from typing import Any

from nas.device import NAME
from nas.errors import StudyError


def budget_table(budget: str, device: str) -> dict[str, Any]:
    """Return a budget as a dictionary, in the structure of `[[budgets]]` in a study file.

    `budget` has the notation of `nas init --budget`, such as "fast=20%". Raises `StudyError` if its limit is not valid.
    """
    table: dict[str, Any] = tomllib.loads(budget_text(budget))["budgets"][0]
    return table | {"device": device}


def budget_text(budget: str) -> str:
    """Return a budget as TOML text.

    Raises `StudyError` if its limit is not a share, a number of milliseconds or a number of points.
    """
    name, _, limit = budget.rpartition("=")
    name, limit = name.strip(), "".join(limit.split())
    if name and not re.fullmatch(NAME, name):
        raise StudyError(
            f"--budget {budget}: the budget's name must consist of letters, digits, dots, dashes and underscores and "
            f"begin with a letter or digit, but is {name!r}; change it (for several budgets, repeat --budget)"
        )
    is_share, is_loss = limit.endswith("%"), limit.endswith("pt")
    try:
        number = float(limit.removesuffix("%").removesuffix("pt"))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and (number > 0.0 or (is_loss and number == 0.0))):
        raise StudyError(
            f'--budget {budget}: must be a share such as "20%", milliseconds such as 4.0, or points of accuracy that '
            "may be lost such as 1pt; correct it"
        )
    value: Any = limit if is_share else number
    if is_loss:
        return f"""
[[budgets]]
name = {json.dumps(name or f"{limit.removesuffix('pt')}-point{'' if value == 1 else 's'}")}
device = "here"
accuracy_loss = {json.dumps(value)}  # maximum loss in points on the search set; the fastest network within it is chosen
# minimise = "size_mb"  # the smallest network instead of the fastest
"""
    return f"""
[[budgets]]
name = {json.dumps(name or (f"{limit[:-1]}-percent" if is_share else f"{limit}-ms"))}
device = "here"
p50_ms = {json.dumps(value)}  # median latency: a share of the teacher's, or milliseconds
"""
