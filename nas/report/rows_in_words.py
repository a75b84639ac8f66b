"""A description of a study's rows as lines of text: labels, repeated texts and the standard error on the search set.

`nas check` prints these lines below the table of text lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nas.data.unlabelled import Counts

_FEW_CLASSES = 6
"""If there are at most this many classes, all of them are listed; otherwise only the largest and the smallest class."""


def rows_in_words(rows: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the description. `rows` is the JSON form of `nas.pipeline.rows.Rows`."""
    yield from _labels(rows)
    if rows["sets"]["train"]["words"]:
        yield f"words: {', '.join(_words(name, lengths) for name, lengths in rows['sets'].items() if lengths['words'])}"
    for description, counts in rows["figures"].items():
        yield f"{description}: {', '.join(f'{count:,} in the {name} set' for name, count in counts.items())}"
    shared_part = "the text" if rows["shared"] == "text" else f"the {rows['shared']}"
    yield (
        f"repeated rows: {rows['repeated']:,} with the text of an earlier row, {rows['in_test']:,} with {shared_part} "
        "of a test row"
    )
    if unlabelled := rows["unlabelled"]:
        yield Counts(**unlabelled).summary()
    if unused_tokens := rows["without_embedding"]:
        yield (
            f"tokens without an embedding: {len(unused_tokens):,}, such as {unused_tokens[0]!r}; no text contains any "
            "of them"
        )
    yield (
        f"search set: candidates are evaluated on {rows['judged_by']}; the standard error of {rows['metric']} is "
        f"{100 * rows['standard_error']:.2f} points (assuming {rows['assumption']})"
    )


def _words(name: str, lengths: dict[str, Any]) -> str:
    left_out = lengths["words_left_out"]
    share = f" ({left_out / lengths['words']:.2%} are truncated or have no token)" if left_out else ""
    return f"{lengths['words']:,} in the {name} set{share}"


def _labels(rows: dict[str, Any]) -> Iterator[str]:
    if targets := rows["targets"]:
        yield (
            f"targets: {targets['least']:g} to {targets['most']:g}, mean {targets['mean']:.4g}, "
            f"standard deviation {targets['deviation']:.4g}"
        )
    if not rows["classes"]:
        return
    counts = {label: counts_by_set["train"] for label, counts_by_set in rows["classes"].items()}
    shown = sorted(counts, key=lambda label: -counts[label])
    if len(shown) > _FEW_CLASSES:
        shown = [shown[0], shown[-1]]
    # If words are tagged, each word has one tag. Otherwise, a text may have several labels or none.
    total = sum(counts.values()) if rows["sets"]["train"]["words"] else rows["sets"]["train"]["rows"]
    shares = ", ".join(f"{label!r} {counts[label] / total:.1%} ({counts[label]:,})" for label in shown)
    which = "" if len(shown) == len(counts) else "largest and smallest "
    yield f"{rows['label_word']}: {len(counts)}; {which}in the training set: {shares}"
