"""What is in a study's rows, in lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nas.data.unlabelled import Counts

_FEW_CLASSES = 6
"""So many classes are listed; of more only the smallest and the largest."""


def rows_in_words(rows: dict[str, Any]) -> Iterator[str]:
    """Lines about the labels, repeated texts and the standard error, from the JSON form of `Rows`."""
    yield _labels(rows)
    yield f"repeated: {rows['repeated']:,} rows have the text of an earlier row; {rows['in_test']:,} that of a test row"
    if unlabelled := rows["unlabelled"]:
        yield Counts(**unlabelled).in_words()
    if unused := rows["without_embedding"]:
        yield f"tokens without an embedding: {len(unused):,} such as {unused[0]!r}, which no text contains"
    yield (
        f"search set: candidates are judged by {rows['judged']:,} texts; standard error of {rows['metric']} "
        f"{100 * rows['standard_error']:.2f} points (assumed: {_assumed(rows)})"
    )


def _assumed(rows: dict[str, Any]) -> str:
    return (
        f"{rows['assumed']:.0%} of the answers are right"
        if rows["classes"]
        else f"a correlation of {rows['assumed']:g}"
    )


def _labels(rows: dict[str, Any]) -> str:
    if targets := rows["targets"]:
        return (
            f"targets: {targets['least']:g} to {targets['most']:g}, mean {targets['mean']:.4g}, "
            f"standard deviation {targets['deviation']:.4g}"
        )
    counts = {label: found["train"] for label, found in rows["classes"].items()}
    shown = sorted(counts, key=lambda label: -counts[label])
    if len(shown) > _FEW_CLASSES:
        shown = [shown[0], shown[-1]]
    total = rows["sets"]["train"]["rows"]
    shares = ", ".join(f"{label!r} {counts[label] / total:.1%} ({counts[label]:,})" for label in shown)
    which = "" if len(shown) == len(counts) else "largest and smallest "
    return f"{rows['label_word']}: {len(counts)}; {which}in the training set: {shares}"
