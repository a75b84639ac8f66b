"""Texts of some rows of the test set, kept beside their tokens: whoever tokenises them again must get the same."""

from __future__ import annotations

from collections.abc import Sequence

from nas.data.words import Text, joined

SAMPLE_FILE = "sample.json"
_ROWS = 32


def sample_of(
    columns: Sequence[Sequence[Text]], lengths: Sequence[int], shown: Sequence[int] = ()
) -> dict[str, list[str]]:
    """Return the texts of some rows by their numbers: the longest, the shortest and, by `lengths`, some between.

    `columns` are those of the texts, `lengths` the rows' numbers of tokens, `shown` rows that are wanted besides. Words
    are joined as they are served.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    chosen = {*shown, *order[: _ROWS // 2], *order[:: max(1, len(order) // (_ROWS // 2))], order[-1]}
    return {str(row): [joined(column[row]) for column in columns] for row in sorted(chosen)}
