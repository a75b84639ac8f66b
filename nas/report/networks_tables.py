"""The values of two tables with one column per network: the F1 of each label, and the ranking of one query's passages.

The macro `networks_table` in `templates/macros.html` shows these tables. A cell is a pair: a value, and a line in
smaller type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.report.contents import Contents, Record
from nas.report.numbers import points, score


def label_table(contents: Contents) -> dict[str, Any] | None:
    """Return a table of F1 scores on the test set, with one row per label or entity type, the most frequent first.

    Return None if no verification contains scores per label.
    """
    networks = _recorded(contents, "labels")
    if not networks:
        return None
    first_scores: Record = next(iter(networks.values()))
    (count_name,) = next(iter(first_scores.values())).keys() - {"precision", "recall", "f1"}
    teacher = networks.get("teacher")

    def pair(scores: Record, name: str) -> tuple[str, str]:
        difference = scores[name]["f1"] - teacher[name]["f1"] if teacher else 0.0
        return score(scores[name]["f1"]), points(difference) if difference else ""

    rows = [
        (name, f"{first_scores[name][count_name]:,.0f}", [pair(scores, name) for scores in networks.values()])
        for name in sorted(first_scores, key=lambda name: -first_scores[name][count_name])
    ]
    return {"named": "label", "counted": count_name, "networks": list(networks), "rows": rows}


def compared_table(contents: Contents) -> dict[str, Any] | None:
    """Return a table of one query's passages, with the rank and the score that each network gives to each passage.

    The passages are in the teacher's order. A text that all rows have in common, such as the query, is listed once,
    under the key `shared`. Return None if no outputs were recorded. Only ranking tasks record outputs (see
    `Metric.rows_to_compare`).
    """
    networks = _recorded(contents, "shown")
    if not networks:
        return None
    first_outputs = next(iter(networks.values()))
    ordered = sorted(
        (row for row in first_outputs if row in contents.sample), key=lambda row: -first_outputs[row]["output"][0]
    )
    ranks = {name: _ranks(outputs) for name, outputs in networks.items()}
    texts = {row: contents.sample[row] for row in ordered}
    shared = [
        number for number in range(2) if len({row_texts[number] for row_texts in texts.values()}) == 1 < len(texts)
    ]
    rows = [
        (
            " | ".join(text for number, text in enumerate(texts[row]) if number not in shared),
            f"{first_outputs[row]['label']:g}",
            [(ranks[name][row], f"{outputs[row]['output'][0]:.2f}") for name, outputs in networks.items()],
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
    """Return the values of `key` in the verifications of the teacher and the exports, keyed by network name.

    Networks whose verification lacks this key are left out.
    """
    teacher = next((verification for key, verification in contents.baselines.items() if key.endswith("/teacher")), {})
    return {
        name: verification[key]
        for name, verification in {"teacher": teacher, **contents.exports}.items()
        if key in verification
    }


def _ranks(outputs: Record) -> Mapping[str, int]:
    """Return the rank of each row. The row with the highest output has rank 1."""
    order = sorted(outputs, key=lambda row: -outputs[row]["output"][0])
    return {row: rank for rank, row in enumerate(order, start=1)}
