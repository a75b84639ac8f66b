"""Detection of the columns of a data file that hold texts and labels, and of the meaning of the labels.

`Column.of` examines one column. `texts` and `label` then decide which columns hold the texts and the labels, and
`meaning` decides what the labels mean. They use the values and the names of the columns. A decision is `Clear` if only
one interpretation is possible. Otherwise it is `Unclear`, with a reason and with candidates, so that `nas init` can ask
the user instead of guessing. `nas.proposal` calls these functions for `nas init`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import pyarrow
import pyarrow.compute
from datasets import ClassLabel, Dataset, LargeList, List, Value

from nas.data.files import arrow_column
from nas.tasks import Meaning
from nas.tasks.labels import MISSING_LABEL_VALUES, MOST_CLASSES, multi_hot_width

T = TypeVar("T")
Form = Literal["text", "classes", "numbers", "codes", "lists", "tags", "empty"]
"""The kind of values in a column. `codes` are values that cannot be texts or labels, such as identifiers, times,
addresses and file names. `tags` are lists with one tag per word, and a second column holds the lists of words; see
`nas.proposal.tagged`."""
_SAMPLED_ROWS = 2000
"""The number of evenly spaced rows that are examined to decide whether a column holds texts."""
_FEW_VALUES = 20
"""The largest number of distinct values that counts as few. A column with few values that repeat often does not hold
texts. Numbers with fractions can be classes only if there are few of them."""
_MOSTLY_SHARE = 0.9
"""The share of values from which on a property of the values is treated as a property of the column."""
_LEAST_PASSAGES = 3
"""The smallest average number of rows per query at which rows may be passages to rank."""


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that occur in column names. A column whose name contains a word of `_METADATA_WORDS` holds metadata about a
# text, unless the name ends in a word of `_TEXT_WORDS`, as in "user_message".
_TEXT_WORDS = _word_set("text sentence tweet review utterance message query question premise hypothesis content")
_METADATA_WORDS = _word_set(
    "author authors user username reviewer annotator annotators worker rater speaker publisher email phone "
    "id ids idx index uid uuid guid qid pid sid docid userid hash md5 sha1 sha256 key "
    "date time timestamp datetime created updated published year month day "
    "url uri link href path file filename image photo picture thumbnail "
    "source src site domain location city country region place address lang locale license version split fold "
    "explanation explanations rationale justification confidence parse original tokens lemma pos "
)
_LABEL_NUMBER_WORDS = frozenset({"id", "index", "idx"})
"""Words that may follow the name of a label, as in "Class Index"."""
_LABEL_WORDS = frozenset({"label", "labels"})
_LABEL_LIKE_WORDS = _word_set(
    "class target y category sentiment emotion polarity stance intent topic star stars rating ratings score similarity "
    "relevance relatedness duplicate quality judgment judgement grade verdict genre"
)
_GRADE_WORDS = _word_set(
    "star stars rating ratings score similarity relevance relatedness quality grade overall points"
)
"""Words in the names of label columns whose numbers may be either values on a scale or classes."""
_QUERY_WORDS = _word_set("query question")
_QUERY_ID_WORDS = _word_set("query question qid topic")
_FIRST_OF_PAIR_WORDS = _word_set("premise question query claim context")
_SECOND_OF_PAIR_WORDS = _word_set("hypothesis sentence answer passage paragraph document doc context evidence response")
_PAIR_ENDINGS = (("1", "2"), ("0", "1"), ("a", "b"), ("first", "second"), ("left", "right"), ("", "pair"), ("", "2"))
"""The pairs of words in which the names of two columns of text pairs may differ, as in "sentence1" and "sentence2"."""
LABEL_TYPES = ("string", "large_string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

_LABEL_SEPARATORS = "|;,"
"""Characters that may separate the labels of a row in one string."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_LETTERS = re.compile(r"[^\W\d_]+")
_NAME_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
# Scripts without spaces between words: Han, Kana, Thai, Lao, Tibetan, Burmese, Khmer.
_UNSPACED = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff"
    "\U00020000-\U0003ffff]"
)
_CHARACTERS_PER_WORD = 2
"""The assumed number of characters per word in a script without spaces between words."""
_TIME_WORDS = _word_set(
    "jan january feb february mar march apr april may jun june jul july aug august sep sept september oct october nov "
    "november dec december mon monday tue tues tuesday wed wednesday thu thurs thursday fri friday sat saturday sun "
    "sunday second seconds minute minutes hour hours day days week weeks month months year years ago of at on "
    "am pm utc gmt est edt cst cdt mst mdt pst pdt cet cest bst ist jst t z st nd rd th "
    "\u5e74 \u6708 \u65e5 \u65f6 \u6642 \u5206 \u79d2"
)
_ADDRESS = re.compile(r"(\w+://|www\.|[A-Za-z]:\\|[.~]{0,2}/)\S*|\S+@\S+\.\w+|[^\n]{1,120}\.[A-Za-z][A-Za-z0-9]{1,3}")
_LIST = re.compile(r"\[.*\]|\{.*\}|\(.*,.*\)", re.DOTALL)


@dataclass(frozen=True)
class Clear(Generic[T]):
    """A decision for the only possible interpretation."""

    value: T


@dataclass(frozen=True)
class Unclear:
    """A decision that the user has to make. `why` is the reason, and `candidates` are the known options."""

    why: str
    candidates: tuple[str, ...] = ()


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
            counts, _ = _value_counts(values)
            # -1: no label
            named_counts = {
                _class_name(feature.names, int(text)): count for text, count in counts.items() if text != "-1"
            }
            return cls(name, "classes", named_counts, len(values) - sum(named_counts.values()), len(feature.names))
        sample = _sampled_texts(values) if feature.dtype in ("string", "large_string") else []
        if sample and _mostly(sample, _LIST.fullmatch):
            return cls(name, "lists", {}, 0)
        if sample and _is_prose(sample):
            distinct = pyarrow.compute.count_distinct(values).as_py()
            blank = pyarrow.compute.equal(pyarrow.compute.utf8_trim_whitespace(values), "")
            missing = values.null_count + (pyarrow.compute.sum(blank).as_py() or 0)
            return cls(name, "text", _value_counts(values)[0] if distinct <= MOST_CLASSES else {}, missing)
        counts, missing = _value_counts(values)
        return cls(name, _form_of(counts, sample, feature.dtype) if counts else "empty", counts, missing)

    @classmethod
    def _of_list_column(cls, rows: Dataset, name: str, feature: Any) -> Column:
        """Return a summary of a column of lists.

        The lists are treated as lists of labels unless a value occurs twice in the same list. Multi-hot vectors, such
        as [0, 1, 1], are treated as lists of the labels whose entry is 1. They are not if their items are class labels,
        or if a column of the file holds lists of strings: such vectors may be tags of words.
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
        name_words = words - _LABEL_NUMBER_WORDS if words & _LABEL_LIKE_WORDS else words
        return not _METADATA_WORDS.isdisjoint(name_words) and self.words[-1] not in _TEXT_WORDS

    @property
    def has_label_name(self) -> bool:
        """Whether the column name contains the word "label" or "labels"."""
        return not _LABEL_WORDS.isdisjoint(self.words)

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
        if not all(_NUMBER.fullmatch(text) and not _LEADING_ZERO.match(text) for text in texts):
            return None
        return sorted(map(float, texts))


def _has_lists_of_strings(feature: Any) -> bool:
    item = feature.feature if isinstance(feature, List | LargeList) else None
    return isinstance(item, Value) and item.dtype in ("string", "large_string")


def _class_name(names: Sequence[str], number: int) -> str:
    """Return the name of a class. A number that the file does not declare is shown as it is; `nas check` refuses it."""
    return names[number] if 0 <= number < len(names) else str(number)


def _sampled_texts(values: pyarrow.ChunkedArray) -> list[str]:
    """Return the texts in evenly spaced rows of a column. Missing and blank texts are left out."""
    step = max(1, -(-len(values) // _SAMPLED_ROWS))
    return [
        text
        for value in values.take(pyarrow.array(range(0, len(values), step))).to_pylist()
        if value and (text := value.strip())
    ]


def _value_counts(values: pyarrow.ChunkedArray) -> tuple[dict[str, int], int]:
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


def _form_of(counts: Mapping[str, int], sample: Sequence[str], dtype: str) -> Form:
    """Return the form of a column that holds neither texts nor lists."""
    if dtype == "bool":
        return "classes"
    rows, repeats = sum(counts.values()), len(counts) <= sum(counts.values()) / 2
    if all(map(_NUMBER.fullmatch, counts)):
        is_whole = all(float(text).is_integer() for text in counts)
        return "codes" if is_whole and rows > _FEW_VALUES and (len(counts) > MOST_CLASSES or not repeats) else "numbers"
    if not sample or _mostly(sample, _is_code):
        return "codes"
    return "classes" if len(counts) <= MOST_CLASSES and repeats else "codes"


def _mostly(values: Sequence[str], test: Callable[[str], object]) -> bool:
    return sum(bool(test(value)) for value in values) >= _MOSTLY_SHARE * len(values)


def _is_prose(sample: Sequence[str]) -> bool:
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
        distinct > len(sample) / 2 or (distinct >= _FEW_VALUES and sum(words) >= 4 * len(sample))
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


def texts(columns: Sequence[Column]) -> Clear[tuple[str, ...]] | Unclear:
    """Decide which column holds the texts, or which two columns hold the texts of each pair."""
    text_columns = [column for column in columns if column.form == "text" and not column.has_label_name]
    candidates = [column for column in text_columns if not column.is_metadata] or text_columns
    names = tuple(column.name for column in candidates)
    # Columns whose names suggest texts, but whose values do not look like texts, for example because they are single
    # words.
    named_like_texts = [
        column.name
        for column in columns
        if column.form in ("codes", "classes") and {*column.words[-1:]} & _TEXT_WORDS and not column.has_label_name
    ]
    if named_like_texts:
        return Unclear(
            f"{' and '.join(named_like_texts)} may hold the texts according to the name, but the values do not look "
            "like texts",
            (*named_like_texts, *names),
        )
    if not candidates:
        lists = tuple(column.name for column in columns if column.form == "lists")
        if lists:
            return Unclear(
                f"no column holds texts, only lists ({', '.join(lists)}), and no two of them hold words and their tags"
            )
        return Unclear("no column looks like texts")
    if len(candidates) == 1:
        return Clear(names)
    if len(candidates) == 2 and (pair := _ordered_pair(*candidates)):
        return Clear(pair)
    return Unclear("several columns look like texts", names)


def _ordered_pair(one: Column, other: Column) -> tuple[str, str] | None:
    """Return the names of the columns with the first texts and the second texts of all pairs.

    Return None if the column names do not suggest a pair.
    """
    for first, second in ((one, other), (other, one)):
        if {*first.words} & _FIRST_OF_PAIR_WORDS and {*second.words} & _SECOND_OF_PAIR_WORDS - {*first.words}:
            return first.name, second.name
    for first, second in ((one, other), (other, one)):
        if any(_differ_in(first.words, second.words, *endings) for endings in _PAIR_ENDINGS):
            return first.name, second.name
    return None


def _differ_in(first: Sequence[str], second: Sequence[str], one: str, other: str) -> bool:
    """Whether the first name becomes the second name if the word `one` in it is replaced by `other`.

    If `one` is empty, `other` is inserted instead.
    """
    if not one:
        return other in second and [word for word in second if word != other] == list(first)
    if len(first) != len(second):
        return False
    return [(a, b) for a, b in zip(first, second, strict=True) if a != b] == [(one, other)]


def label(columns: Sequence[Column], text: Collection[str], same: Callable[[str, str], bool]) -> Clear[str] | Unclear:
    """Decide which column holds the labels.

    `text` holds the names of the text columns. `same` is called with the names of two columns, and returns whether
    their values correspond one to one.
    """
    other_columns = [column for column in columns if column.name not in text]
    with_label_name = [column for column in other_columns if column.has_label_name]
    possible_labels = [column for column in other_columns if column.can_be_label]
    if with_label_name and not any(column.can_be_label for column in with_label_name):
        why = why_unfit(with_label_name[0]) or "does not look like a label"
        return Unclear(f"{with_label_name[0].name} {why}", tuple(column.name for column in possible_labels))
    likely_labels = [
        column
        for column in with_label_name
        if column in possible_labels and not (set(column.words) & _METADATA_WORDS - _LABEL_NUMBER_WORDS)
    ]
    candidates = _without_equivalents(
        likely_labels or [column for column in possible_labels if not column.is_metadata], same
    )
    if len(candidates) == 1:
        return Clear(candidates[0].name)
    if not candidates:
        return Unclear("no column looks like a label", tuple(column.name for column in possible_labels))
    candidates.sort(key=lambda column: _LABEL_LIKE_WORDS.isdisjoint(column.words))
    return Unclear("several columns may be the label", tuple(column.name for column in candidates))


def _without_equivalents(columns: Sequence[Column], same: Callable[[str, str], bool]) -> list[Column]:
    """Return the columns without duplicates. Columns are duplicates if their values correspond one to one.

    For example, one column may hold the names of classes, and another column their numbers. Of several such columns,
    the one with the shortest name is kept.
    """
    kept: list[Column] = []
    for column in sorted(columns, key=lambda column: len(column.name)):
        similar = [known for known in kept if len(known.counts) == len(column.counts) and known.form == column.form]
        if not any(column.form != "lists" and same(known.name, column.name) for known in similar):
            kept.append(column)
    return [column for column in columns if column in kept]


def has_queries(column: Column, rows: int, distinct: int) -> bool:
    """Return whether a column holds queries, each of which has several passages.

    `column` is the first text column. It has `distinct` different texts in `rows` rows.
    """
    return not _QUERY_WORDS.isdisjoint(column.words) and rows >= _LEAST_PASSAGES * distinct


def are_graded_passages(query: Column, passage: Column, grade: Column) -> bool:
    """Return whether pairs of texts are queries and passages with grades, rather than texts with a score.

    Grades are whole numbers of at least 0. Queries are recognised by the names of the columns, or because some rows
    have a passage but no query.
    """
    has_names = not _QUERY_WORDS.isdisjoint(query.words) and _QUERY_WORDS.isdisjoint(passage.words)
    numbers = grade.numbers or []
    are_grades = bool(numbers) and numbers[0] >= 0.0 and all(map(float.is_integer, numbers))
    return are_grades and (has_names or bool(query.missing and not passage.missing))


def is_query_id(column: Column) -> bool:
    """Return whether the name of a column suggests that it identifies queries, as `query_id` does."""
    return not _QUERY_ID_WORDS.isdisjoint(column.words) and column.is_metadata


def can_be_grade(column: Column) -> bool:
    """Return whether the values may be grades of relevance: whole numbers from 0, or a few declared classes."""
    if column.classes:
        return column.classes <= _FEW_VALUES
    numbers = column.numbers or []
    return bool(numbers) and numbers[0] == 0.0 and all(map(float.is_integer, numbers))


def why_unfit(column: Column) -> str | None:
    """Return why a column cannot hold labels, even if the user has chosen it. None if it can hold labels."""
    if column.form == "lists" and not column.counts:
        return (
            "holds lists that are not lists of labels (which have distinct names or whole numbers, in Parquet or JSONL)"
        )
    if not column.counts:
        return "holds texts" if column.form == "text" else "is empty"
    if len(column.counts) == 1:
        return f"holds only one value, {next(iter(column.counts))!r}"
    if column.numbers is None and len(column.counts) > MOST_CLASSES:
        return f"holds {len(column.counts):,} different texts, but at most {MOST_CLASSES:,} classes are supported"
    return None


def meaning(column: Column, outputs: int | None) -> Clear[Meaning] | Unclear:
    """Decide what the values of a label column mean. If the result is `Unclear`, its candidates are meanings.

    The column must be one for which `why_unfit` returns None. `outputs` is the number of outputs of a fine-tuned
    teacher, or None. If only one meaning is possible with this number of outputs, return this meaning. Otherwise,
    numbers have a clear meaning only if the values and the column name allow a single interpretation.
    """
    if column.list_meaning:
        return Clear(column.list_meaning)
    classes, numbers = column.classes or len(column.counts), None if column.classes else column.numbers
    missing_value = min((text for text in column.counts if text.casefold() in MISSING_LABEL_VALUES), default=None)
    if missing_value and classes > 2 and outputs != classes and (numbers is None or numbers[0] == -1):
        row_count = column.counts[missing_value]
        return Unclear(
            f"{column.name} holds {missing_value!r} in {row_count:,} rows: remove these rows if this means that the "
            "label is missing, or use it as a class.",
            ("classes",),
        )
    if not column.classes and outputs != classes and (joined_value := _joined_labels(column)):
        return Unclear(
            f"{column.name} holds {joined_value!r}, which may be several labels of one row: write them as lists (in "
            "Parquet or JSONL) for multi_label, or use each value as a class.",
            ("classes",),
        )
    clear_meaning: Meaning | None = "classes" if numbers is None else _meaning_of_numbers(column, numbers, outputs)
    if clear_meaning and (clear_meaning == "scale" or outputs != 1):
        return Clear(clear_meaning)
    description = (
        f"{classes} classes" if numbers is None else f"{classes} numbers from {numbers[0]:g} to {numbers[-1]:g}"
    )
    teacher = ", and the teacher has 1 output" if outputs == 1 else ""
    return Unclear(f"{column.name} holds {description}{teacher}: classes or a scale?", ("classes", "scale"))


def _joined_labels(column: Column) -> str | None:
    """Return a value that seems to consist of several labels, such as "joy|love". None if there is none.

    The labels must be parts of several values, because a class may have a name such as "science, technology".
    """
    for separator in _LABEL_SEPARATORS:
        parts_by_value = {value: [part.strip() for part in value.split(separator)] for value in column.counts}
        joined = [value for value, parts in parts_by_value.items() if len(parts) > 1 and all(parts)]
        value_counts = Counter(part for parts in parts_by_value.values() for part in {*parts})
        labels = {part for value in joined for part in parts_by_value[value]}
        if len(joined) > 1 and 2 * sum(value_counts[label] > 1 for label in labels) >= len(labels):
            return min(joined)
    return None


def _meaning_of_numbers(column: Column, numbers: Sequence[float], outputs: int | None) -> Meaning | None:
    """Return the meaning of labels that are numbers. None if they may be either classes or values on a scale."""
    is_whole = all(number.is_integer() for number in numbers)
    if not is_whole:
        return "scale" if outputs == 1 or len(numbers) > _FEW_VALUES else None
    if outputs == 1:
        return "scale" if len(numbers) > 2 else None
    if outputs == len(numbers) or len(numbers) == 2:
        return "classes"
    from_zero = list(numbers) == list(range(len(numbers)))
    as_floats = any("." in text or "e" in text.lower() for text in column.counts)
    is_grade = not _GRADE_WORDS.isdisjoint(column.words)
    is_class = not (_LABEL_LIKE_WORDS - _GRADE_WORDS - {"target", "y"}).isdisjoint(column.words)
    if len(numbers) <= MOST_CLASSES and not as_floats and not is_grade and (from_zero or is_class):
        return "classes"
    return None
