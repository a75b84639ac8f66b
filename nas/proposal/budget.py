"""Budgets in the notation of `nas init --budget`."""

from __future__ import annotations

import math
import re
from typing import Any

from nas.device import NAME, NAME_RULE
from nas.errors import StudyError


def budget_table(budget: str, device: str, place: str = "--budget") -> dict[str, Any]:
    """Return a budget as a dictionary, in the structure of `[[budgets]]` in a study file.

    `budget` has the notation of `nas init --budget`, such as "fast=20%". Raises `StudyError` if its name is not valid,
    or if its limit is not a share, a number of milliseconds or a number of points. The message begins with `place`,
    which says where the user has written the budget.
    """
    name, _, limit = budget.rpartition("=")
    name, limit = name.strip(), "".join(limit.split())
    if name and not re.fullmatch(NAME, name):
        raise StudyError(
            f"{place} {budget}: the budget's name {NAME_RULE}, but is {name!r}; change the name, and "
            "write each budget separately"
        )
    is_share, is_loss = limit.endswith("%"), limit.endswith("pt")
    try:
        number = float(limit.removesuffix("%").removesuffix("pt"))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and (number > 0.0 or (is_loss and number == 0.0))):
        raise StudyError(
            f'{place} {budget}: must be a percentage ("20%") or a number of milliseconds ("4.0"), both above 0, or an '
            'accuracy loss in points ("1pt"); write one of these forms'
        )
    if is_loss:
        points = f"{limit.removesuffix('pt')}-point{'' if number == 1.0 else 's'}"
        return {"name": name or points, "device": device, "accuracy_loss": number}
    if is_share:
        return {"name": name or f"{limit[:-1]}-percent", "device": device, "p50_ms": limit}
    return {"name": name or f"{limit}-ms", "device": device, "p50_ms": number}
