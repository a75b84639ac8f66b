"""The values of tables with one column per network: F1 per label, and the passages of one query.

`networks_table` in `templates/macros.html` shows them. A cell is a pair: a value, and a line in smaller type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.report.contents import Contents, Record
from nas.report.numbers import points, score


def label_table(contents: Contents) -> dict[str, Any] | None:
    """Return the table of F1 on the test set, one row per label or entity type, the most frequent first.

    None if the verifications hold no scores per label.
    """
    networks = _recorded(contents, "labels")
    if not networks:
        return None
    first: Record = next(iter(networks.values()))
    (counted,) = next(iter(first.values())).keys() - {"precision", "recall", "f1"}
    teacher = networks.get("teacher")

    def pair(found: Record, name: str) -> tuple[str, str]:
        lost = found[name]["f1"] - teacher[name]["f1"] if teacher else 0.0
        return score(found[name]["f1"]), points(lost) if lost else ""

    rows = [
        (name, f"{first[name][counted]:,.0f}", [pair(found, name) for found in networks.values()])
        for name in sorted(first, key=lambda name: -first[name][counted])
    ]
    return {"named": "label", "counted": counted, "networks": list(networks), "rows": rows}


def compared_table(contents: Contents) -> dict[str, Any] | None:
    """Return the table of one query's passages with each network's rank and score, in the order of the teacher.

    A text that all rows have in common, such as the query, is in `shared` instead. None if no outputs were recorded;
    only ranking tasks record them, see `Metric.rows_to_compare`.
    """
    networks = _recorded(contents, "shown")
    if not networks:
        return None
    first = next(iter(networks.values()))
    ordered = sorted((row for row in first if row in contents.sample), key=lambda row: -first[row]["output"][0])
    ranks = {name: _ranks(found) for name, found in networks.items()}
    texts = {row: contents.sample[row] for row in ordered}
    shared = [number for number in range(2) if len({own[number] for own in texts.values()}) == 1 < len(texts)]
    rows = [
        (
            " | ".join(text for number, text in enumerate(texts[row]) if number not in shared),
            f"{first[row]['label']:g}",
            [(ranks[name][row], f"{found[row]['output'][0]:.2f}") for name, found in networks.items()],
        )
        for row in ordered
    ]
    return {
        "named": "text",
        "counted": "label",
        "networks": list(networks),
        "rows": rows,
        "shared": [texts[ordered[0]][number] for number in shared],
    }


def _recorded(contents: Contents, key: str) -> dict[str, Record]:
    """Return the values of a key in the verifications of the teacher and the exports, by the name of the network."""
    teacher = next((found for key, found in contents.baselines.items() if key.endswith("/teacher")), {})
    return {name: found[key] for name, found in {"teacher": teacher, **contents.exports}.items() if key in found}


def _ranks(found: Record) -> Mapping[str, int]:
    """Return the rank of each row by a network's outputs; the highest output has rank 1."""
    order = sorted(found, key=lambda row: -found[row]["output"][0])
    return {row: rank for rank, row in enumerate(order, start=1)}
