"""A sample of the texts in the test set, which is stored together with the tokenised data.

The export step tokenises the sampled texts again and checks that the tokens equal the stored ones. The report shows
some of these texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.data.words import Text, joined

SAMPLE_FILE = "sample.json"
_SAMPLE_SIZE = 32


def sample_of(
    columns: Sequence[Sequence[Text]], lengths: Sequence[int], shown: Sequence[int] = ()
) -> dict[str, list[str]]:
    """Return the texts of a sample of rows, keyed by row number as a string.

    The sample contains the longest texts, the shortest text, texts of lengths in between, and the rows in `shown`.
    `columns` are the columns of texts, and `lengths` holds the number of tokens of each row. If a text is a list of
    words, the words are joined with spaces, because exports receive texts as strings.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    chosen = {*shown, *order[: _SAMPLE_SIZE // 2], *order[:: max(1, len(order) // (_SAMPLE_SIZE // 2))], order[-1]}
    return {str(row): [joined(column[row]) for column in columns] for row in sorted(chosen)}
