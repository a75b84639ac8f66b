"""The facts about one column of a data file: its name, the kind of its values, and how often each value occurs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow.compute
from datasets import ClassLabel, Dataset, LargeList, List, Value

from nas.data.files import arrow_column
from nas.proposal.names import LABEL_LIKE_WORDS, LABEL_NUMBER_WORDS, LABEL_WORDS, METADATA_WORDS, TEXT_WORDS
from nas.proposal.values import Form, are_lists, form_of, is_prose, sampled_texts, value_counts
from nas.tasks import Meaning
from nas.tasks.labels import MOST_CLASSES, NUMBER, multi_hot_width

TEXT_TYPES = ("string", "large_string")
LABEL_TYPES = (*TEXT_TYPES, "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_NAME_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")


@dataclass(frozen=True)
class Column:
    """A column of a data file: its name and a summary of its values."""

    name: str
    form: Form
    counts: Mapping[str, int]
    """The number of rows with each value, keyed by the value as a string. If values are lists, the number of
    occurrences of each label or tag. Empty if the column has many different texts, or lists of neither labels nor
    tags."""
    missing: int
    """The number of rows without a value."""
    classes: int | None = None
    """The number of classes that the data file declares for the column; None if it declares no classes."""

    @classmethod
    def of(cls, rows: Dataset, name: str) -> Column:
        """Examine the column `name` of a data set, and return a summary."""
        feature = rows.features[name]
        if isinstance(feature, List | LargeList):
            return cls._of_list_column(rows, name, feature.feature)
        if not isinstance(feature, Value | ClassLabel):
            return cls(name, "lists", {}, 0)
        values = arrow_column(rows, name)
        if isinstance(feature, ClassLabel):
            counts, _ = value_counts(values)
            # -1: no label
            named_counts = {
                _class_name(feature.names, int(text)): count for text, count in counts.items() if text != "-1"
            }
            return cls(name, "classes", named_counts, len(values) - sum(named_counts.values()), len(feature.names))
        sample = sampled_texts(values) if feature.dtype in TEXT_TYPES else []
        if sample and are_lists(sample):
            return cls(name, "lists", {}, 0)
        if sample and is_prose(sample):
            distinct = pyarrow.compute.count_distinct(values).as_py()
            blank = pyarrow.compute.equal(pyarrow.compute.utf8_trim_whitespace(values), "")
            missing = values.null_count + (pyarrow.compute.sum(blank).as_py() or 0)
            return cls(name, "text", value_counts(values)[0] if distinct <= MOST_CLASSES else {}, missing)
        counts, missing = value_counts(values)
        return cls(name, form_of(counts, sample, feature.dtype) if counts else "empty", counts, missing)

    @classmethod
    def _of_list_column(cls, rows: Dataset, name: str, feature: Any) -> Column:
        """Return a summary of a column of lists.

        The lists are treated as lists of labels unless a value occurs twice in the same list. A multi-hot vector, such
        as [0, 1, 1], is treated as the list of the labels whose entry is 1. This does not apply if the items are class
        labels, or if a column of the file contains lists of strings, because the vectors may then be tags of words.
        """
        lists = arrow_column(rows, name)
        present = [values for values in lists.to_pylist() if values is not None]
        may_be_tags = isinstance(feature, ClassLabel) or any(map(_has_lists_of_strings, rows.features.values()))
        if not may_be_tags and (width := multi_hot_width(present)):
            ones = {str(label): sum(int(values[label]) for values in present) for label in range(width)}
            return cls(name, "lists", ones, len(lists) - len(present))
        is_label = isinstance(feature, Value | ClassLabel) and feature.dtype in LABEL_TYPES
        label_lists = present if is_label else []
        if not label_lists or any(len(set(values)) < len(values) for values in label_lists):
            return cls(name, "lists", {}, 0)
        counts = Counter(value for values in label_lists for value in values if value is not None)
        if len(counts) > MOST_CLASSES:
            return cls(name, "lists", {}, 0)
        names = feature.names if isinstance(feature, ClassLabel) else None
        named = {_class_name(names, value) if names else str(value).strip(): count for value, count in counts.items()}
        return cls(name, "lists", named, len(lists) - len(label_lists), len(names) if names else None)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words that make up the column name, in lower case."""
        return tuple(word.casefold() for word in _NAME_PARTS.findall(self.name))

    @property
    def is_metadata(self) -> bool:
        """Whether the column name suggests metadata about a text, such as its author, time or identifier."""
        words = set(self.words)
        name_words = words - LABEL_NUMBER_WORDS if words & LABEL_LIKE_WORDS else words
        return not METADATA_WORDS.isdisjoint(name_words) and self.words[-1] not in TEXT_WORDS

    @property
    def has_label_name(self) -> bool:
        """Whether the column name contains the word "label" or "labels"."""
        return not LABEL_WORDS.isdisjoint(self.words)

    @property
    def has_lists(self) -> bool:
        """Whether the values are lists of any kind."""
        return self.form in ("lists", "tags")

    @property
    def list_meaning(self) -> Meaning | None:
        """The meaning of a column of lists: `tags` if each list has one tag per word, otherwise `lists`.

        None if the values are not lists.
        """
        return "tags" if self.form == "tags" else "lists" if self.form == "lists" else None

    @property
    def can_be_label(self) -> bool:
        """Whether the values could be the labels of a task."""
        return self.form in ("classes", "numbers", "lists") and len(self.counts) > 1

    @property
    def numbers(self) -> list[float] | None:
        """The distinct values as numbers, in ascending order. None if a value is not a number.

        Values with a leading zero, such as "01", are not treated as numbers.
        """
        texts = self.counts
        if not texts or self.has_lists:
            return None
        if not all(NUMBER.fullmatch(text) and not _LEADING_ZERO.match(text) for text in texts):
            return None
        return sorted(map(float, texts))


def _has_lists_of_strings(feature: Any) -> bool:
    item = feature.feature if isinstance(feature, List | LargeList) else None
    return isinstance(item, Value) and item.dtype in TEXT_TYPES


def _class_name(names: Sequence[str], number: int) -> str:
    """Return the name of a class, or its number if the file declares no name for it.

    `nas check` refuses data with such numbers.
    """
    return names[number] if 0 <= number < len(names) else str(number)
