"""The kind of values in a column: texts, class names, numbers, codes or lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import pyarrow
import pyarrow.compute

from nas.proposal.names import word_set
from nas.tasks.labels import MOST_CLASSES, NUMBER

Form = Literal["text", "classes", "numbers", "codes", "lists", "tags", "empty"]
"""The kind of values in a column. `codes` are values that cannot be texts or labels, such as identifiers, times,
addresses and file names. `tags` are lists with one tag per word; the lists of words are in another column (see
`nas.proposal.tagged`).
"""
_SAMPLED_ROWS = 2000
"""The number of evenly spaced rows that are examined to decide whether a column contains texts."""
FEW_VALUES = 20
"""The largest number of distinct values that counts as few. A column with few values that repeat often does not contain
texts. Numbers with fractions can be classes only if there are few of them.
"""
_MOSTLY_SHARE = 0.9
"""If at least this share of a column's values has a property, the column is treated as having this property."""
_LETTERS = re.compile(r"[^\W\d_]+")
# Scripts without spaces between words: Han, Kana, Thai, Lao, Tibetan, Burmese, Khmer.
_UNSPACED = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff"
    "\U00020000-\U0003ffff]"
)
_CHARACTERS_PER_WORD = 2
"""The assumed number of characters per word in a script without spaces between words."""
_TIME_WORDS = word_set(
    "jan january feb february mar march apr april may jun june jul july aug august sep sept september oct october nov "
    "november dec december mon monday tue tues tuesday wed wednesday thu thurs thursday fri friday sat saturday sun "
    "sunday second seconds minute minutes hour hours day days week weeks month months year years ago of at on "
    "am pm utc gmt est edt cst cdt mst mdt pst pdt cet cest bst ist jst t z st nd rd th "
    "\u5e74 \u6708 \u65e5 \u65f6 \u6642 \u5206 \u79d2"
)
_ADDRESS = re.compile(r"(\w+://|www\.|[A-Za-z]:\\|[.~]{0,2}/)\S*|\S+@\S+\.\w+|[^\n]{1,120}\.[A-Za-z][A-Za-z0-9]{1,3}")
_LIST = re.compile(r"\[.*\]|\{.*\}|\(.*,.*\)", re.DOTALL)


def sampled_texts(values: pyarrow.ChunkedArray) -> list[str]:
    """Return the texts in evenly spaced rows of a column. Missing and blank texts are left out."""
    step = max(1, -(-len(values) // _SAMPLED_ROWS))
    return [
        text
        for value in values.take(pyarrow.array(range(0, len(values), step))).to_pylist()
        if value and (text := value.strip())
    ]


def value_counts(values: pyarrow.ChunkedArray) -> tuple[dict[str, int], int]:
    """Return the number of rows with each value, and the number of rows without a value.

    The first result is keyed by the value as a string without surrounding white space.
    """
    counts: dict[str, int] = {}
    missing = 0
    for item in pyarrow.compute.value_counts(values).to_pylist():
        value = item["values"]
        text = "" if value is None or value != value else str(value).strip()  # noqa: PLR0124 (not a number)
        if text:
            counts[text] = counts.get(text, 0) + item["counts"]
        else:
            missing += item["counts"]
    return counts, missing


def form_of(counts: Mapping[str, int], sample: Sequence[str], dtype: str) -> Form:
    """Return the form of a column that contains neither texts nor lists."""
    if dtype == "bool":
        return "classes"
    rows, repeats = sum(counts.values()), len(counts) <= sum(counts.values()) / 2
    if all(map(NUMBER.fullmatch, counts)):
        is_whole = all(float(text).is_integer() for text in counts)
        return "codes" if is_whole and rows > FEW_VALUES and (len(counts) > MOST_CLASSES or not repeats) else "numbers"
    if not sample or _mostly(sample, _is_code):
        return "codes"
    return "classes" if len(counts) <= MOST_CLASSES and repeats else "codes"


def _mostly(values: Sequence[str], test: Callable[[str], object]) -> bool:
    return sum(bool(test(value)) for value in values) >= _MOSTLY_SHARE * len(values)


def are_lists(sample: Sequence[str]) -> bool:
    """Whether most values of a sample are lists that are written as strings."""
    return _mostly(sample, _LIST.fullmatch)


def is_prose(sample: Sequence[str]) -> bool:
    """Whether the values of a sample are texts rather than class names.

    Most of the values must have several words. In addition, the values must be mostly distinct, or too long for class
    names.
    """
    if _mostly(sample, _is_code):
        return False
    words = [_count_words(value) for value in sample]
    distinct = len(set(sample))
    has_several_words = sum(count > 1 for count in words) > len(sample) / 2
    return has_several_words and (
        distinct > len(sample) / 2 or (distinct >= FEW_VALUES and sum(words) >= 4 * len(sample))
    )


def _is_code(value: str) -> bool:
    """Whether a value is a time, an address or a file name, or contains no word."""
    if _ADDRESS.fullmatch(value):
        return True
    return all(word.casefold() in _TIME_WORDS for word in _LETTERS.findall(value))


def _count_words(value: str) -> int:
    """Return the number of words in a text. For scripts without spaces, the number is an estimate."""
    unspaced = len(_UNSPACED.findall(value))
    return len(_UNSPACED.sub(" ", value).split()) + unspaced // _CHARACTERS_PER_WORD if unspaced else len(value.split())
