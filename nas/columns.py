"""Which columns of a data file hold the texts and the label, and what the label means.

A column is judged by its values first and by its name second. A role is `Clear` if only one reading is possible, else
`Unclear`, with what has to be asked: nothing is guessed.
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

from nas.tasks import Meaning
from nas.tasks.labels import MOST_CLASSES

T = TypeVar("T")
Form = Literal["text", "classes", "numbers", "codes", "lists", "tags", "empty"]
"""`codes` are identifiers, times, addresses, names of files and whatever else nobody would classify. `tags` are
lists with a tag for each word of another column; see `nas.tagged_columns`."""
_SAMPLE = 2000
"""Rows, evenly spaced, that say whether a column holds texts."""
_FEW = 20
"""Distinct values: a column of fewer, many times each, is no text; numbers with fractions of fewer may be classes."""
_MOSTLY = 0.9
_PASSAGES = 3
"""So many rows of a query, on average, may be passages that are to be ranked."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that column names are made of. A name with one of `_ABOUT` belongs to something about a text, unless it ends in
# one of `_TEXTS` ("user_message").
_TEXTS = _words("text sentence tweet review utterance message query question premise hypothesis content")
_ABOUT = _words(
    "author authors user username reviewer annotator annotators worker rater speaker publisher email phone "
    "id ids idx index uid uuid guid qid pid sid docid userid hash md5 sha1 sha256 key "
    "date time timestamp datetime created updated published year month day "
    "url uri link href path file filename image photo picture thumbnail "
    "source src site domain location city country region place address lang locale license version split fold "
    "explanation explanations rationale justification confidence parse original tokens lemma pos "
)
_NUMBERED = frozenset({"id", "index", "idx"})
"""What may stand beside a label's name: "Class Index"."""
_LABELS = frozenset({"label", "labels"})
_LIKE_LABELS = _words(
    "class target y category sentiment emotion polarity stance intent topic star stars rating ratings score similarity "
    "relevance relatedness duplicate quality judgment judgement grade verdict genre"
)
_GRADES = _words("star stars rating ratings score similarity relevance relatedness quality grade overall points")
"""Names of labels whose numbers are an order as well as classes."""
_QUERIES = _words("query question")
_OF_QUERIES = _words("query question qid topic")
_FIRST_OF_PAIR = _words("premise question query claim context")
_SECOND_OF_PAIR = _words("hypothesis sentence answer passage paragraph document doc context evidence response")
_PLACES = (("1", "2"), ("0", "1"), ("a", "b"), ("first", "second"), ("left", "right"), ("", "pair"), ("", "2"))
"""What names of a pair differ in."""
LABEL_TYPES = ("string", "large_string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_NO_LABEL = frozenset({"-", "--", "?", "-1", "-1.0", "n/a", "na", "nan", "null"})
"""Labels that often stand for a missing one."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_LETTERS = re.compile(r"[^\W\d_]+")
_NAME_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
# Han, Kana, Thai, Lao, Tibetan, Burmese, Khmer: written without spaces between words.
_UNSPACED = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff"
    "\U00020000-\U0003ffff]"
)
_CHARACTERS_A_WORD = 2
_WORDS_OF_TIMES = _words(
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
    """A role of which there is one reading."""

    value: T


@dataclass(frozen=True)
class Unclear:
    """A role that has to be asked for."""

    why: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    name: str
    form: Form
    counts: Mapping[str, int]
    """How often each value occurs, as text, or each label of lists of labels or tags; nothing for texts and other
    lists."""
    missing: int
    """Rows without a value."""
    classes: int | None = None
    """How many classes the file itself declares, if it does."""

    @classmethod
    def of(cls, rows: Dataset, name: str) -> Column:
        """Look at a column of a data set."""
        feature = rows.features[name]
        if isinstance(feature, List | LargeList):
            return cls._of_lists(rows, name, feature.feature)
        if not isinstance(feature, Value | ClassLabel):
            return cls(name, "lists", {}, 0)
        values = rows.select_columns([name]).with_format("arrow")[:].column(0)
        if isinstance(feature, ClassLabel):
            counts, _ = _counted(values)
            known = {feature.names[int(text)]: count for text, count in counts.items() if text != "-1"}  # no class
            return cls(name, "classes", known, len(values) - sum(known.values()), len(feature.names))
        sample = _sample(values) if feature.dtype in ("string", "large_string") else []
        if sample and _mostly(sample, _LIST.fullmatch):
            return cls(name, "lists", {}, 0)
        if sample and _is_prose(sample):
            distinct = pyarrow.compute.count_distinct(values).as_py()
            blank = pyarrow.compute.equal(pyarrow.compute.utf8_trim_whitespace(values), "")
            missing = values.null_count + (pyarrow.compute.sum(blank).as_py() or 0)
            return cls(name, "text", _counted(values)[0] if distinct <= MOST_CLASSES else {}, missing)
        counts, missing = _counted(values)
        return cls(name, _form(counts, sample, feature.dtype) if counts else "empty", counts, missing)

    @classmethod
    def _of_lists(cls, rows: Dataset, name: str, feature: Any) -> Column:
        """Lists hold labels if none of them has one twice, as lists of words or of tags do."""
        lists = rows.select_columns([name]).with_format("arrow")[:].column(0)
        is_label = isinstance(feature, ClassLabel) or (isinstance(feature, Value) and feature.dtype in LABEL_TYPES)
        found = [values for values in lists.to_pylist() if values is not None] if is_label else []
        if not found or any(len(set(values)) < len(values) for values in found):
            return cls(name, "lists", {}, 0)
        counts = Counter(value for values in found for value in values if value is not None)
        if len(counts) > MOST_CLASSES:
            return cls(name, "lists", {}, 0)
        names = feature.names if isinstance(feature, ClassLabel) else None
        named = {names[value] if names else str(value).strip(): count for value, count in counts.items()}
        return cls(name, "lists", named, len(lists) - len(found), len(names) if names else None)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of the name, in small letters."""
        return tuple(word.casefold() for word in _NAME_PARTS.findall(self.name))

    @property
    def is_about(self) -> bool:
        """Whether the name says that this is about a text: its author, its time, its identifier."""
        words = set(self.words)
        numbered = words - _NUMBERED if words & _LIKE_LABELS else words
        return not _ABOUT.isdisjoint(numbered) and self.words[-1] not in _TEXTS

    @property
    def has_label_name(self) -> bool:
        """Whether the name says label, in so many letters."""
        return not _LABELS.isdisjoint(self.words)

    @property
    def has_lists(self) -> bool:
        """Whether the values are lists, of labels, of tags or of something else."""
        return self.form in ("lists", "tags")

    @property
    def list_meaning(self) -> Meaning | None:
        """What lists hold, if the values are lists."""
        return "tags" if self.form == "tags" else "lists" if self.form == "lists" else None

    @property
    def can_be_label(self) -> bool:
        """Whether a task could be made of the values."""
        return self.form in ("classes", "numbers", "lists") and len(self.counts) > 1

    @property
    def numbers(self) -> list[float] | None:
        """The distinct values as numbers, if they all are; "01" is a text."""
        texts = self.counts
        if not texts or self.has_lists:
            return None
        if not all(_NUMBER.fullmatch(text) and not _LEADING_ZERO.match(text) for text in texts):
            return None
        return sorted(map(float, texts))


def _sample(values: pyarrow.ChunkedArray) -> list[str]:
    """Evenly spaced texts of a column, without those that are missing."""
    step = max(1, -(-len(values) // _SAMPLE))
    return [
        text
        for value in values.take(pyarrow.array(range(0, len(values), step))).to_pylist()
        if value and (text := value.strip())
    ]


def _counted(values: pyarrow.ChunkedArray) -> tuple[dict[str, int], int]:
    """How often each value occurs, as text without blanks around it, and how many rows have none."""
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


def _form(counts: Mapping[str, int], sample: Sequence[str], dtype: str) -> Form:
    """The form of a column that does not hold texts."""
    if dtype == "bool":
        return "classes"
    rows, often = sum(counts.values()), len(counts) <= sum(counts.values()) / 2
    if all(map(_NUMBER.fullmatch, counts)):
        is_whole = all(float(text).is_integer() for text in counts)
        return "codes" if is_whole and rows > _FEW and (len(counts) > MOST_CLASSES or not often) else "numbers"
    if not sample or _mostly(sample, _is_code):
        return "codes"
    return "classes" if len(counts) <= MOST_CLASSES and often else "codes"


def _mostly(values: Sequence[str], test: Callable[[str], object]) -> bool:
    return sum(bool(test(value)) for value in values) >= _MOSTLY * len(values)


def _is_prose(sample: Sequence[str]) -> bool:
    """Whether most values have several words, and either differ or are too long for the names of classes."""
    if _mostly(sample, _is_code):
        return False
    words = [_count_words(value) for value in sample]
    distinct = len(set(sample))
    several = sum(count > 1 for count in words) > len(sample) / 2
    return several and (distinct > len(sample) / 2 or (distinct >= _FEW and sum(words) >= 4 * len(sample)))


def _is_code(value: str) -> bool:
    """Whether a value is a time, an address, the name of a file, or has no word at all."""
    if _ADDRESS.fullmatch(value):
        return True
    return all(word.casefold() in _WORDS_OF_TIMES for word in _LETTERS.findall(value))


def _count_words(value: str) -> int:
    """Words of a text, of a language without spaces, too."""
    unspaced = len(_UNSPACED.findall(value))
    return len(_UNSPACED.sub(" ", value).split()) + unspaced // _CHARACTERS_A_WORD if unspaced else len(value.split())


def texts(columns: Sequence[Column]) -> Clear[tuple[str, ...]] | Unclear:
    """The column of texts, or the two of a pair."""
    holding = [column for column in columns if column.form == "text" and not column.has_label_name]
    plain = [column for column in holding if not column.is_about] or holding
    names = tuple(column.name for column in plain)
    # A column that is called "text" and does not look like one: single words, say.
    called = [
        column.name
        for column in columns
        if column.form in ("codes", "classes") and {*column.words[-1:]} & _TEXTS and not column.has_label_name
    ]
    if called:
        return Unclear(f"{' and '.join(called)} may hold the texts, but does not look like it", (*called, *names))
    if not plain:
        lists = tuple(column.name for column in columns if column.form == "lists")
        if lists:
            return Unclear(
                f"no column holds texts, only lists ({', '.join(lists)}), and no two of them are words with a tag each"
            )
        return Unclear("no column looks like texts")
    if len(plain) == 1:
        return Clear(names)
    if len(plain) == 2 and (pair := _pair(*plain)):
        return Clear(pair)
    return Unclear("several columns look like texts", names)


def _pair(one: Column, other: Column) -> tuple[str, str] | None:
    """Two names that say they are a pair, in its order."""
    for first, second in ((one, other), (other, one)):
        if {*first.words} & _FIRST_OF_PAIR and {*second.words} & _SECOND_OF_PAIR - {*first.words}:
            return first.name, second.name
    for first, second in ((one, other), (other, one)):
        if any(_differ_in(first.words, second.words, *place) for place in _PLACES):
            return first.name, second.name
    return None


def _differ_in(first: Sequence[str], second: Sequence[str], one: str, other: str) -> bool:
    """Whether a name becomes the other one by changing `one`, or nothing, into `other`."""
    if not one:
        return other in second and [word for word in second if word != other] == list(first)
    if len(first) != len(second):
        return False
    return [(a, b) for a, b in zip(first, second, strict=True) if a != b] == [(one, other)]


def label(columns: Sequence[Column], text: Collection[str], same: Callable[[str, str], bool]) -> Clear[str] | Unclear:
    """The column of the label. `same` says whether two columns divide the rows in the same way."""
    others = [column for column in columns if column.name not in text]
    called = [column for column in others if column.has_label_name]
    able = [column for column in others if column.can_be_label]
    if called and not any(column.can_be_label for column in called):
        why = unfit(called[0]) or "does not look like a label"
        return Unclear(f"{called[0].name} {why}", tuple(column.name for column in able))
    named = [column for column in called if column in able and not (set(column.words) & _ABOUT - _NUMBERED)]
    chosen = _different(named or [column for column in able if not column.is_about], same)
    if len(chosen) == 1:
        return Clear(chosen[0].name)
    if not chosen:
        return Unclear("no column looks like a label", tuple(column.name for column in able))
    chosen.sort(key=lambda column: _LIKE_LABELS.isdisjoint(column.words))
    return Unclear("several columns may be the label", tuple(column.name for column in chosen))


def _different(columns: Sequence[Column], same: Callable[[str, str], bool]) -> list[Column]:
    """The columns that do not repeat another one, as names of classes repeat numbers; the shortest name stays."""
    kept: list[Column] = []
    for column in sorted(columns, key=lambda column: len(column.name)):
        alike = [known for known in kept if len(known.counts) == len(column.counts) and known.form == column.form]
        if not any(column.form != "lists" and same(known.name, column.name) for known in alike):
            kept.append(column)
    return [column for column in columns if column in kept]


def has_queries(column: Column, rows: int, distinct: int) -> bool:
    """Whether a first text, of so many distinct ones, is a query that several rows have passages for."""
    return not _QUERIES.isdisjoint(column.words) and rows >= _PASSAGES * distinct


def is_query_id(column: Column) -> bool:
    """Whether a column says by its name that it identifies queries."""
    return not _OF_QUERIES.isdisjoint(column.words) and column.is_about


def can_be_grade(column: Column) -> bool:
    """Whether the values may say how relevant something is: whole numbers from 0, or classes that a file declares."""
    if column.classes:
        return column.classes <= _FEW
    numbers = column.numbers
    return bool(numbers) and numbers is not None and numbers[0] == 0.0 and all(map(float.is_integer, numbers))


def unfit(column: Column) -> str | None:
    """Why a column cannot be a label, even if the user says that it is; None if it can."""
    if column.form == "lists" and not column.counts:
        return "holds lists that are no lists of labels (in Parquet or JSONL, with whole numbers or names)"
    if not column.counts:
        return "holds texts" if column.form == "text" else "holds nothing"
    if len(column.counts) == 1:
        return f"holds one value only, {next(iter(column.counts))!r}"
    if column.numbers is None and len(column.counts) > MOST_CLASSES:
        return f"holds {len(column.counts):,} different texts, and at most {MOST_CLASSES:,} classes are supported"
    return None


def meaning(column: Column, outputs: int | None) -> Clear[Meaning] | Unclear:
    """What the values of a label mean; the label must not be `unfit`. What is unclear has meanings as candidates.

    `outputs` are those of a fine-tuned teacher, None for another one. They decide where labels fit them; other numbers
    are classes or a scale only if their values and the column's name leave no doubt.
    """
    if column.list_meaning:
        return Clear(column.list_meaning)
    classes, numbers = column.classes or len(column.counts), None if column.classes else column.numbers
    no_label = min((text for text in column.counts if text.casefold() in _NO_LABEL), default=None)
    if no_label and classes > 2 and outputs != classes and (numbers is None or numbers[0] == -1):
        found = column.counts[no_label]
        return Unclear(
            f"{column.name} holds {no_label!r} in {found:,} rows: remove them if it means that there is no label, "
            "or take it as a class",
            ("classes",),
        )
    reading: Meaning | None = "classes" if numbers is None else _reading(column, numbers, outputs)
    if reading and (reading == "scale" or outputs != 1):
        return Clear(reading)
    what = f"{classes} classes" if numbers is None else f"{classes} numbers from {numbers[0]:g} to {numbers[-1]:g}"
    teacher = ", and the teacher has 1 output" if outputs == 1 else ""
    return Unclear(f"{column.name} holds {what}{teacher}: classes or a scale?", ("classes", "scale"))


def _reading(column: Column, numbers: Sequence[float], outputs: int | None) -> Meaning | None:
    """What numbers as labels mean; None if they may be classes or a scale."""
    is_whole = all(number.is_integer() for number in numbers)
    if not is_whole:
        return "scale" if outputs == 1 or len(numbers) > _FEW else None
    if outputs == 1:
        return "scale" if len(numbers) > 2 else None
    if outputs == len(numbers) or len(numbers) == 2:
        return "classes"
    from_zero = list(numbers) == list(range(len(numbers)))
    as_floats = any("." in text or "e" in text.lower() for text in column.counts)
    is_grade = not _GRADES.isdisjoint(column.words)
    is_class = not (_LIKE_LABELS - _GRADES - {"target", "y"}).isdisjoint(column.words)
    if len(numbers) <= MOST_CLASSES and not as_floats and not is_grade and (from_zero or is_class):
        return "classes"
    return None
