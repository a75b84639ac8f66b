"""The values of tables with one column per network: F1 per label, and the passages of one query.

`networks_table` in `templates/macros.html` shows these tables. A cell is a pair: a value, and a line in smaller type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.report.contents import Contents, Record
from nas.report.numbers import points, score


def label_table(contents: Contents) -> dict[str, Any] | None:
    """Return the table of F1 on the test set. It has one row per label or entity type, starting with the most frequent.

    Return None if the verifications hold no scores per label.
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
    """Return a table of one query's passages, in the teacher's order, with each network's rank and score for them.

    A text that all rows have in common, such as the query, is under the key `shared` and not in the rows. Return None
    if no outputs were recorded. Only ranking tasks record outputs; see `Metric.rows_to_compare`.
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
    """Return the value of `key` in each verification of the teacher or an export that has it, keyed by network name."""
    teacher = next((verification for key, verification in contents.baselines.items() if key.endswith("/teacher")), {})
    return {
        name: verification[key]
        for name, verification in {"teacher": teacher, **contents.exports}.items()
        if key in verification
    }


def _ranks(outputs: Record) -> Mapping[str, int]:
    """Return the rank of each row among a network's outputs. The row with the highest output has rank 1."""
    order = sorted(outputs, key=lambda row: -outputs[row]["output"][0])
    return {row: rank for rank, row in enumerate(order, start=1)}
