"""The values of the report's results section: accuracy, latency and size of each export, compared with the teacher.

`templates/results.html` shows a card for each export, a table of all measured networks, and a comparison with uniform
networks. It also shows a warning if a classifier on averaged token embeddings is as accurate as an export.
"""

from __future__ import annotations

import math
from typing import Any

from nas.report.contents import Contents, Record
from nas.report.numbers import conditions, score

_KINDS = {
    "teacher": "teacher",
    "teacher-int8": "teacher, quantised to int8",
    "static": "static: averaged token embeddings",
}


def results(contents: Contents) -> dict[str, Any] | None:
    """Return the values that `results.html` needs in addition to `contents`, or None if no network is verified."""
    if not contents.exports and not contents.baselines:
        return None
    return {
        "static_warnings": _static_warnings(contents),
        "networks": _networks(contents),
        "measured_how": _measured_how(contents),
        "uniform": _against_uniform(contents),
    }


def _static_warnings(contents: Contents) -> list[tuple[Record, str]]:
    """Return a pair for each static model that is as accurate as an export for the same device.

    The static model is a classifier on averaged token embeddings. The pair contains its verification, and a text with
    the names and accuracies of all exports that are not more accurate by more than one standard error.
    """
    warnings = []
    for key, static in contents.baselines.items():
        device, kind = key.split("/", 1)
        if kind == "static":
            upper_accuracy = static["accuracy"] + (static["accuracy_standard_error"] or 0.0)
            exports_here = {
                name: export for name, export in contents.exports.items() if export.get("device", device) == device
            }
            beaten = [
                f"{name} ({score(export['accuracy'])})"
                for name, export in exports_here.items()
                if export["accuracy"] <= upper_accuracy
            ]
            if beaten:
                warnings.append((static, ", ".join(beaten)))
    return warnings


def _networks(contents: Contents) -> list[tuple[str, str, Record]]:
    """Return a triple (`teacher` or `export`, name, verification) for each baseline and each export."""
    networks = []
    for key, verification in contents.baselines.items():
        device, kind = key.split("/", 1)
        name = _KINDS.get(kind, kind) + (f" on {device}" if len(contents.devices) > 1 else "")
        networks.append(("teacher", name, verification))
    return networks + [("export", name, verification) for name, verification in contents.exports.items()]


def _measured_how(contents: Contents) -> str:
    """Return a description of the conditions under which latency was measured on each device."""
    conditions_by_device: dict[str, str] = {}
    for record in (*contents.baselines.values(), *contents.exports.values()):
        for measurements in record.get("devices", {"": record}).values():
            if "latency" in measurements:  # absent until the network has been measured on that device
                device = measurements["latency"]["device"]
                conditions_by_device.setdefault(device["name"], conditions(device, measurements["environment"]))
    return "; ".join(f"{name}: {text}" for name, text in conditions_by_device.items())


def _against_uniform(contents: Contents) -> dict[str, Any] | None:
    """Return a comparison, for each budget, of the best candidate with the best uniform network.

    Return None if no budget has both.
    """
    front, rows = contents.front or {}, []
    for name, uniform in front.get("uniform", {}).items():
        against = (uniform or {}).get("against")
        candidates = front["budgets"].get(name, ())
        candidates_met = (item for item in candidates if item["met"] and not item.get("uniform"))
        candidate = next((item for item in candidates_met if against in (None, item["digest"])), None)
        if candidate and uniform:
            rows.append((name, candidate, uniform))
    if not rows:
        return None
    examples, error = front.get("search_examples", 0), 0.0
    if contents.metric == "accuracy" and examples:
        shares = [item["search_accuracy"] for item in front["uniform"].values() if item]
        error = max(math.sqrt(share * (1.0 - share) / examples) for share in shares)
    return {
        "rows": rows,
        "examples": examples,
        "all_measured": all(item.get("measured", True) for _, *networks in rows for item in networks),
        "error": error,
    }
