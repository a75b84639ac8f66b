"""A sample of the test set's texts, which is stored with the tokenised data.

The export step tokenises these texts again, to check that it gets the stored tokens. The report shows some of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.data.words import Text, joined

SAMPLE_FILE = "sample.json"
_SAMPLE_SIZE = 32


def sample_of(
    columns: Sequence[Sequence[Text]], lengths: Sequence[int], shown: Sequence[int] = ()
) -> dict[str, list[str]]:
    """Return the texts of some rows, keyed by row number: the longest, the shortest and some in between.

    `columns` are the columns of texts, `lengths` holds the number of tokens of each row, and `shown` the row numbers of
    additional rows to return. Lists of words are joined with spaces, as for serving.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    chosen = {*shown, *order[: _SAMPLE_SIZE // 2], *order[:: max(1, len(order) // (_SAMPLE_SIZE // 2))], order[-1]}
    return {str(row): [joined(column[row]) for column in columns] for row in sorted(chosen)}
