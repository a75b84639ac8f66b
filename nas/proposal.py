"""Proposes the first study file of a user: examines the teacher and the data, suggests settings and writes the file.

`TeacherProperties` and `Columns` hold facts from the user's files. `Answers` holds the settings that the user has given
or confirmed. `nas init` (`nas.cli.setup`) asks the user for these settings and calls `write_study`. `nas.in_python`
uses the same proposals for studies that are defined in Python.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset

from nas import columns
from nas.columns import Clear, Column, Unclear
from nas.compression import BLOCKS, EIGHT_BIT, compression
from nas.data import read_rows
from nas.device import NAME
from nas.errors import DataError, NasError, StudyError, TeacherError
from nas.files import given_path, write_atomically, write_text
from nas.form import NetworkType
from nas.model.modeling import types_named
from nas.model.stock import compact_config, shape_of
from nas.model.teacher_config import read_config
from nas.pipeline.plan import check_sources
from nas.runtimes import RUNTIMES, names_of
from nas.space import SearchSpace, Shape, shipped_spaces
from nas.study import Holdout, Study, is_data_file, study_name
from nas.tagged_columns import tagged_columns
from nas.tasks import REGISTRY, Evaluation, task_kind
from nas.vocabulary import PRUNABLE, tokenizer_kind

STUDY_FILE, SPACE_FILE = "study.toml", "search_space.toml"
LENGTH = 128
"""The proposed maximum length of texts, in tokens. The proposal is lower if the teacher has fewer positions."""
_SHOWN_LABELS = 5
"""The largest number of label names that a summary lists."""
_LEAST_WORDS = 4
"""The smallest number of words of a column name that may be a text instead."""
_COUNTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20)
"""Proposed numbers of layers and of attention heads. Only numbers below the teacher's number are proposed."""
_HIDDEN_SHARES, _INTERMEDIATE_SHARES = (1 / 2, 2 / 3, 5 / 6, 1), (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
"""Proposed hidden and intermediate sizes, as shares of the teacher's sizes."""


@dataclass(frozen=True)
class TeacherProperties:
    """The properties of a teacher that are read from the files in its folder."""

    shape: Shape
    positions: int
    """The largest number of tokens that the teacher can read in one text."""
    outputs: int | None
    """The number of outputs of the teacher's classifier. None if the teacher has no classifier."""
    problem_type: str | None = None
    """The `problem_type` in the teacher's configuration."""
    tokenizer: str | None = None
    """The model type of the teacher's tokenizer, such as WordPiece. None if it is unknown."""
    network_type: NetworkType = "sequence_classifier"
    labels: tuple[str, ...] = ()
    """The names of the outputs of the teacher's classifier."""

    @classmethod
    def at(cls, name: str) -> TeacherProperties | None:
        """Return the properties of the teacher in the folder `name`. If `name` is a hub id, return None.

        Nothing is downloaded. Raises `TeacherError` if the folder does not exist or holds no supported model.
        """
        folder = given_path(name)
        if not folder.is_dir():
            if name.startswith((".", "/", "~")):
                raise TeacherError(
                    f"--teacher {name}: there is no folder with this name; correct the path, or give a hub id"
                )
            return None
        config = read_config(str(folder))
        named = types_named(config.architectures or ())
        outputs = len(config.id2label or ()) if named else None
        problem_type = getattr(config, "problem_type", None)
        positions = compact_config(config).max_position_embeddings
        labels = tuple(str(name) for _, name in sorted((config.id2label or {}).items())) if named else ()
        network_type: NetworkType = named[0] if named else "sequence_classifier"
        return cls(shape_of(config), positions, outputs, problem_type, tokenizer_kind(folder), network_type, labels)

    def outputs_for(self, kind: str | None) -> int | None:
        """Return the number of outputs of the teacher's classifier.

        None if the classifier does not suit the kind of task. If `kind` is None, the task is assumed to have one label
        per text. A classifier for one label per text does not suit a task with several labels per text, and vice versa.
        """
        if self.network_type != (task_kind(kind).network_form.network_type if kind else "sequence_classifier"):
            return None
        if kind is not None and task_kind(kind).accepts(self.problem_type, self.outputs):
            return self.outputs
        needs_multi_label = kind is not None and task_kind(kind).has_thresholds
        is_known = self.problem_type is not None or not needs_multi_label
        is_multi_label = self.problem_type == "multi_label_classification"
        return None if is_known and is_multi_label != needs_multi_label else self.outputs

    def misfit(self, data: Columns, label: Sequence[str], kind: str) -> str | None:
        """Return why the number of outputs of the teacher's classifier does not fit the task. None if it fits.

        Also return None if `outputs_for` does.
        """
        outputs, needed = self.outputs_for(kind), data.outputs(label, kind)
        if outputs in (None, needed):
            return None
        rules = task_kind(kind)
        verb = "have" if len(label) > 1 else "has"
        requirement = f"a {kind} needs 1" if rules.has_one_output else f"{' and '.join(label)} {verb} {needed}"
        return f"the teacher's classifier has {outputs} outputs, but {requirement}" + (
            "" if rules.has_one_output else f" {rules.label_word}"
        )


@dataclass(frozen=True)
class Columns:
    """The columns of the data files, and the decisions about which of them hold texts and labels."""

    data: Dataset
    """The training data."""
    by_name: Mapping[str, Column]
    """The columns that occur in both the training data and the test data, keyed by name."""
    text: Clear[tuple[str, ...]] | Unclear
    label: Clear[str] | Unclear
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each column of tags, the names of the columns of words to which the tags may belong."""

    @classmethod
    def of(cls, rows: Dataset, test: Dataset) -> Columns:
        """Find the columns that occur in both data sets, and decide which of them hold texts and labels."""
        names = [name for name in rows.column_names if name in test.column_names]
        tagged = tagged_columns(rows, names)
        by_name = {name: tagged[name][0] if name in tagged else Column.of(rows, name) for name in names}
        text = columns.texts(list(by_name.values()))
        label = columns.label(
            list(by_name.values()), text.value if isinstance(text, Clear) else (), partial(_correspond, rows)
        )
        words = {name: word_columns for name, (_, word_columns) in tagged.items()}
        if isinstance(label, Unclear) and not label.candidates and words:
            text, label = _tagging_columns(words)
        absent = [name for name in rows.column_names if name not in names]
        if isinstance(label, Unclear) and absent and not label.candidates:
            label = Unclear(f"{label.why} in both files; the test data has no {', '.join(map(repr, absent))}")
        return cls(rows, by_name, text, label, words)

    @property
    def rows(self) -> int:
        """The number of rows of the training data."""
        return len(self.data)

    def text_for(self, label: Sequence[str]) -> Clear[tuple[str, ...]] | Unclear:
        """Return the text columns that go with the label columns `label`."""
        return _word_column(self.words[label[0]]) if label and label[0] in self.words else self.text

    def label_for(self, text: Sequence[str]) -> Clear[str] | Unclear:
        """Return the label column that goes with the text columns `text`."""
        matching = {name: words for name, words in self.words.items() if set(text) & set(words)}
        if matching:
            return _tagging_columns(matching)[1]
        if isinstance(self.text, Unclear) and text:
            return columns.label(list(self.by_name.values()), text, partial(_correspond, self.data))
        return self.label

    def column(self, name: str) -> Column:
        """Return the column called `name`. Raises `DataError` if the training or the test data lacks this column."""
        if name not in self.by_name:
            raise DataError(f"no column {name!r} occurs in both data files; use one of {', '.join(self.by_name)}")
        return self.by_name[name]

    def check_header(self, text: Sequence[str], label: str) -> None:
        """Raise `DataError` if the names of the columns seem to be the values of a row."""
        if label.strip() in self.column(label).counts and any(len(name.split()) >= _LEAST_WORDS for name in text):
            raise DataError(
                f"--label {label}: the first line of the training file must name the columns, but seems to be a row "
                f"with the text {text[0]!r} and the label {label!r}; add a header line to both files"
            )

    def query(self, text: Sequence[str]) -> str | None:
        """Return the column that identifies each row's query. None if the texts are not queries with passages.

        This is the column with the texts of the queries. If a column with a name such as `query_id` identifies the same
        queries, return that column instead.
        """
        if len(text) != 2 or not set(text) <= self.by_name.keys():
            return None
        distinct = len(self.data.unique(text[0]))
        if not columns.has_queries(self.by_name[text[0]], self.rows, distinct):
            return None
        query_ids = [name for name, column in self.by_name.items() if name not in text and columns.is_query_id(column)]
        return next((name for name in query_ids if _correspond(self.data, name, text[0])), text[0])

    def check_words(self, text: Sequence[str], tags: str) -> None:
        """Raise `DataError` unless `text` is a single column of lists with one word per tag of the column `tags`."""
        if text and tuple(text) not in [(words,) for words in self.words.get(tags, ())]:
            possible = ", ".join(self.words.get(tags, ())) or "a file that has such a column"
            raise DataError(
                f"--text {' and '.join(text)}: must be a column of lists with a word for each tag of {tags!r}; use "
                f"{possible}"
            )

    def kind(self, label: str, outputs: int | None, query: str | None = None) -> Clear[str] | Unclear:
        """Return the kind of task for a label column.

        `outputs` is the number of outputs of a fine-tuned teacher, or None without such a teacher. `query` is the
        column that identifies queries, or None if rows cannot be passages to rank. Raises `DataError` if the column
        cannot hold labels.
        """
        if why := columns.why_unfit(self.column(label)):
            raise DataError(f"--label {label}: the column {why}; use one of {', '.join(self.by_name)}")
        meaning = columns.meaning(self.column(label), outputs)
        if query and outputs in (None, 1) and columns.can_be_grade(self.column(label)):
            if outputs == 1:
                return Clear(_kinds_of("grades")[0])
            meanings = (meaning.value,) if isinstance(meaning, Clear) else meaning.candidates
            meaning = Unclear(
                f"{label} may hold the relevance of several passages for each {query}.", ("grades", *meanings)
            )
        if isinstance(meaning, Unclear):
            return Unclear(meaning.why, tuple(chain.from_iterable(map(_kinds_of, meaning.candidates))))
        return Clear(_kinds_of(meaning.value)[0])  # if several kinds use such labels, the first one registered

    def outputs(self, label: Sequence[str], kind: str) -> int:
        """Return the number of outputs that a classifier needs for these label columns and this kind of task."""
        if task_kind(kind).has_one_output:
            return 1
        label_column = self.column(label[0])
        return len(label) if len(label) > 1 else label_column.classes or len(label_column.counts)

    def evaluation(self, pair: Sequence[str], label: Sequence[str]) -> Evaluation:
        """Return which kind of data the search and test sets hold: `texts`, `pairs` or `retrieval`.

        Only for tasks whose training data has no labels. `pair` and `label` are empty if the search and test sets
        contain only texts.
        """
        if not pair:
            return "texts"
        query, passage, grade = map(self.column, (*pair, label[0]))
        return "retrieval" if columns.are_graded_passages(query, passage, grade) else "pairs"

    def described(
        self, text: Sequence[str], label: Sequence[str], kind: str, metric: str, query: str | None = None
    ) -> str:
        """Return one line for the user that names the chosen columns and summarises the labels."""
        values: Sequence[str] = label if len(label) > 1 else sorted(self.column(label[0]).counts) if label else ()
        if not label:
            summary = f"{kind}, no labels"
        elif task_kind(kind).meaning == "scale":
            numbers = self.column(label[0]).numbers or [math.nan]
            summary = f"{kind}, numbers from {numbers[0]:g} to {numbers[-1]:g}"
        else:
            names = [*values[:_SHOWN_LABELS], *["..."][: max(0, len(values) - _SHOWN_LABELS)]]
            summary = f"{len(values)} {task_kind(kind).label_word}: {', '.join(names)}"
        # A row without a query only adds its passage to the corpus.
        is_retrieval = task_kind(kind).evaluated_on(metric) == "retrieval"
        needed_columns = text[1:] if is_retrieval else (*text, *label)
        missing = sum(self.column(name).missing for name in needed_columns)
        notes = f"; missing values: {missing:,}; fill them, or remove these rows" if missing else ""
        notes = (f"; query: {query}" if query else "") + notes
        labels = f"label: {', '.join(label)} ({summary})" if label else f"label: none ({summary})"
        return f"text: {', '.join(text)}; {labels}{notes}"


def _tagging_columns(
    words: Mapping[str, tuple[str, ...]],
) -> tuple[Clear[tuple[str, ...]] | Unclear, Clear[str] | Unclear]:
    """Return the column of words and the column of tags of a tagging task.

    `words` maps the name of each column of tags to the columns of words to which the tags may belong.
    """
    all_words = tuple(dict.fromkeys(chain.from_iterable(words.values())))
    tags = tuple(words)
    return _word_column(all_words), Clear(tags[0]) if len(tags) == 1 else Unclear(
        "several columns hold tags of words", tags
    )


def _word_column(words: tuple[str, ...]) -> Clear[tuple[str, ...]] | Unclear:
    return Clear(words) if len(words) == 1 else Unclear("several columns hold lists of words", words)


def text_of(train: str) -> Clear[str] | Unclear:
    """Return the name of the text column of a file without labels, or `Unclear` if the user has to choose.

    Raises `DataError` if the file cannot be read.
    """
    rows = read_rows(str(given_path(train)))
    text = columns.texts([Column.of(rows, name) for name in rows.column_names])
    if isinstance(text, Clear) and len(text.value) > 1:
        return Unclear("several columns hold texts", text.value)
    return Clear(text.value[0]) if isinstance(text, Clear) else text


def _kinds_of(meaning: str) -> tuple[str, ...]:
    """Return the kinds of task that are trained on labels with this meaning; see `nas.tasks.Meaning`."""
    return tuple(name for name, kind in REGISTRY.items() if kind.meaning == meaning and not kind.learns_from_texts)


def _correspond(rows: Dataset, one: str, other: str) -> bool:
    """Whether the values of two columns correspond one to one."""
    table = rows.select_columns([one, other]).with_format("arrow")[:]
    return len({table.group_by(names).aggregate([]).num_rows for names in ([one], [other], [one, other])}) == 1


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The settings of a study that the user has given or confirmed.

    Paths are relative to the working directory.
    """

    teacher: str
    fine_tune: bool
    hub: str | None
    config: str | None
    train: str
    test: str
    unlabelled: Sequence[str]
    text: Sequence[str]
    label: Sequence[str]
    """The label column. For a multi-label task, several columns with one label each are also possible."""
    kind: str
    query: str | None
    """The column that identifies queries in a ranking task. None if the first text column identifies them."""
    search: str | None = None
    """The file or split with the text pairs on which candidates are evaluated. None if the search set is held out of
    the training rows."""
    pair: Sequence[str] = ()
    """The two columns of the search and test data that hold the texts of each pair."""
    metric: str
    space: str | None
    """The name of a shipped search space, or a TOML file. If it is None, a search space is chosen or created that fits
    the teacher, which must then be in a local folder."""
    runtime: str
    threads: int
    batch_size: int
    sequence_length: str
    """A number of tokens, or `task` for the lengths of the texts of the task."""
    budgets: Sequence[str]
    """The limits of the budgets. A limit on the median latency is a share of the teacher's latency, such as "20%", or a
    number of milliseconds, such as "4.0". A limit on the loss of accuracy is a number of points, such as "1pt". A
    budget may have a name, as in "fast=20%"."""


def write_study(
    folder: Path, answers: Answers, teacher: TeacherProperties | None, columns: Columns | None
) -> list[Path]:
    """Write `study.toml` and, if no shipped space fits the teacher, `search_space.toml`.

    Return the paths of these files. The study file is created only once it is complete and valid. If this fails, no new
    file or folder is left behind. Raises `StudyError` if the folder already contains a study, and the same errors as
    loading the new study.
    """
    if answers.runtime not in RUNTIMES:
        raise StudyError(f"--runtime {answers.runtime}: there is no such runtime; use one of {', '.join(RUNTIMES)}")
    if columns:
        for name in (*(answers.pair or answers.text), *answers.label, *([answers.query] if answers.query else [])):
            columns.column(name)
    target, space_target = folder / STUDY_FILE, folder / SPACE_FILE
    space = _search_space(folder, answers, teacher)
    is_written = teacher is not None and space == SPACE_FILE
    space_file_text = space_text(teacher.shape, [answers.runtime]) if teacher and is_written else None
    # A `nas init` that was killed may have left an identical search space.
    space_is_new = space_file_text is not None and not (
        space_target.is_file() and _has_content(space_target, space_file_text)
    )
    for path in (target, *((space_target,) if space_is_new else ())):
        if path.exists() or path.is_symlink():
            raise StudyError(f"{path}: already exists; remove it, or give another folder")
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        if space_file_text and space_is_new:
            write_text(space_target, space_file_text)
        text = _study_text(folder, answers, space, teacher, columns)
        write_atomically(target, partial(_write_valid, text, target))
    except BaseException:
        if space_is_new:
            space_target.unlink(missing_ok=True)
        for path in absent:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise
    return [target, *((space_target,) if space_file_text else ())]


def _has_content(path: Path, text: str) -> bool:
    return path.read_bytes() == text.encode()


def _write_valid(text: str, target: Path, draft: Path) -> None:
    """Write a study to the file `draft` and load it to validate it.

    Error messages name the file `target` instead of the draft.
    """
    draft.write_text(text, encoding="utf-8")
    try:
        check_sources(Study.load(draft))
    except NasError as problem:
        raise type(problem)(str(problem).replace(str(draft.resolve()), str(target))) from None


def _search_space(folder: Path, answers: Answers, teacher: TeacherProperties | None) -> str:
    """Return the name of a shipped search space, or the path of a TOML file relative to the folder of the study."""
    if answers.space:
        return _relative_to(folder, answers.space) if answers.space.endswith(".toml") else answers.space
    assert teacher  # with a hub id, `nas init` requires a search space
    return fitting_space(teacher.shape, [answers.runtime]) or SPACE_FILE


def fitting_space(shape: Shape, runtimes: Collection[str]) -> str | None:
    """Return the name of a shipped search space for teachers of this shape. None if there is no such space.

    If possible, all runtimes support all compression methods of the space.
    """
    names = [name for name in sorted(shipped_spaces()) if SearchSpace.load(name).teacher == shape]
    supported = (name for name in names if not any(_unsupported(SearchSpace.load(name), each) for each in runtimes))
    return next(supported, names[0] if names else None)


def space_text(shape: Shape, runtimes: Collection[str]) -> str:
    """Return TOML text that defines a search space for teachers of this shape, for these runtimes."""
    supported = (name for name in EIGHT_BIT if all(compression(name).runs_on(each, "cpu") for each in runtimes))
    methods = json.dumps(["none", next(supported, EIGHT_BIT[0])])
    width = 32 if shape.hidden_size >= 128 else 8
    layers = [count for count in _COUNTS if count < shape.num_hidden_layers]
    heads = [count for count in _COUNTS if count < shape.num_attention_heads]
    return f"""\
name = "search-space"
description = "For a teacher of {shape.num_hidden_layers} layers and hidden size {shape.hidden_size}."

[teacher]
num_hidden_layers = {shape.num_hidden_layers}
hidden_size = {shape.hidden_size}
num_attention_heads = {shape.num_attention_heads}
intermediate_size = {shape.intermediate_size}

[dimensions]
# A number keeps that many evenly spaced layers; a list such as [0, 1, 5] keeps exactly these layers.
layers = {[*layers, shape.num_hidden_layers]}
hidden_size = {_sizes(shape.hidden_size, _HIDDEN_SHARES, width)}
num_attention_heads = {[*heads, shape.num_attention_heads]}
intermediate_size = {_sizes(shape.intermediate_size, _INTERMEDIATE_SHARES, width)}

[compression]
embedding = {methods}
attention = {methods}
feed_forward = {methods}
"""


def _sizes(largest: int, shares: Sequence[float], multiple: int) -> list[int]:
    """Return the shares of the size `largest`, and `largest` itself, in ascending order.

    Each share is rounded to a multiple of `multiple`.
    """
    smaller = {round(largest * share / multiple) * multiple for share in shares}
    return sorted(size for size in {*smaller, largest} if 0 < size <= largest)


def _study_text(
    folder: Path, answers: Answers, space: str, teacher: TeacherProperties | None, columns: Columns | None
) -> str:
    kind, name = answers.kind, study_name(folder)
    name_line = (
        f"name = {_toml(name)}  # also the name of the folder of results\n" if name != folder.resolve().name else ""
    )
    train, test = (name if answers.hub else _relative_to(folder, name) for name in (answers.train, answers.test))
    further_lines = ""
    if answers.search:
        search_name = answers.search if answers.hub else _relative_to(folder, answers.search)
        further_lines = f"search = {_toml(search_name)}  # pairs of texts on which candidates are evaluated\n"
    if answers.unlabelled:
        names = [
            name if answers.hub and not is_data_file(name) else _relative_to(folder, name)
            for name in answers.unlabelled
        ]
        further_lines += f"unlabelled = {_toml(names)}  # unlabelled texts, used for the distillation\n"
    hub = [f"{key} = {_toml(value)}\n" for key in ("hub", "config") if (value := getattr(answers, key))]
    size = Holdout().size_of(columns.rows) if columns else 2000
    default = "" if columns else ", by default a fifth of the rows and at most 5,000"
    held_out = f"{'' if columns else '# '}holdout = {{ size = {size} }}"
    held_out += f"  # training rows on which candidates are evaluated{default}; {_held_out_text(kind)}\n"
    fine_tune_line = "" if answers.fine_tune else "# "
    fine_tune_line += (
        "fine_tune = true  # for a teacher that is not fine-tuned yet; { epochs = 2.0 } sets the number of epochs\n"
    )
    if answers.search:
        held_out = ""
    if task_kind(kind).learns_from_texts:
        fine_tune_line = ""
    tokens = int(answers.sequence_length) if answers.sequence_length.isdecimal() else None
    longest = max(LENGTH, tokens or 0)
    if teacher:
        most_tokens = task_kind(kind).most_tokens(str(given_path(answers.teacher)))
        longest = min(longest, teacher.positions, most_tokens or longest)
    return f"""\
# This study searches for the most accurate sub-network of the teacher within each budget.
# `nas check` validates this file and estimates the time; `nas run` runs all steps. Paths are relative to this file.
{name_line}
[task]
{"".join(hub)}train = {_toml(train)}
test = {_toml(test)}  # networks are evaluated on it only for the final results
{further_lines}text = {_toml(list(answers.text))}  # {task_kind(kind).text_words}
{_column_texts(answers)}kind = {_toml(kind)}  # or {", ".join(name for name in REGISTRY if name != kind)}
metric = {_toml(answers.metric)}  # or {", ".join(name for name in task_kind(kind).metrics if name != answers.metric)}
{_threshold_text(kind)}{_width_text(kind)}max_length = {longest}  # tokens; longer texts are truncated
{held_out}
[teacher]
model = {_toml(_relative_to(folder, answers.teacher) if teacher else answers.teacher)}
{fine_tune_line}{_pruning_text(teacher)}
[search_space]
name = {_toml(space)}
{_exclusion_text(SearchSpace.load(space, base=folder), answers.runtime)}
[[devices]]
name = "here"
runtime = {_toml(answers.runtime)}  # {names_of(RUNTIMES)}
threads = {answers.threads}
batch_size = {answers.batch_size}{_batch_text(kind)}
sequence_length = {tokens or _toml(answers.sequence_length)}  # or several: [16, 64]; "task" for the task's own lengths
{"".join(_budget_text(budget) for budget in answers.budgets)}
[supernet]
steps = 1500  # a larger search space needs more

[search]
evaluations = 200
"""


def _pruning_text(teacher: TeacherProperties | None) -> str:
    """Return the commented-out setting that prunes the vocabulary.

    The comment names the type of the teacher's tokenizer.
    """
    own_type = f" (this is {teacher.tokenizer})" if teacher and teacher.tokenizer else ""
    return (
        f"# prune_vocabulary = true  # remove tokens that no training text uses; for {PRUNABLE} tokenizers{own_type}\n"
    )


def _column_texts(answers: Answers) -> str:
    return _pair_text(answers) + _query_text(answers.query) + _label_text(answers.label)


def _label_text(label: Sequence[str]) -> str:
    if not label:
        return ""
    return f"label = {_toml(label[0] if len(label) == 1 else list(label))}\n"


def _threshold_text(kind: str) -> str:
    """Return the commented-out threshold setting. Empty if the labels of this kind of task have no thresholds."""
    if not task_kind(kind).has_thresholds:
        return ""
    return '# threshold = "search"  # tuned on the search set; by default a label applies from probability 0.5\n'


def _width_text(kind: str) -> str:
    """Return the commented-out setting of the output width. Empty if this kind of task does not have the setting."""
    if not task_kind(kind).has_output_width:
        return ""
    return '# output_width = "own"  # the hidden size of each network; by default, the width and space of the teacher\n'


_PAIR_COMMENTS: dict[Evaluation, str] = {
    "pairs": "columns of search and test with the two texts of a pair; the next line names their score",
    "retrieval": "columns of search and test with queries and passages; the next line names the grade of relevance",
}


def _pair_text(answers: Answers) -> str:
    if not answers.pair:
        return ""
    comment = _PAIR_COMMENTS.get(task_kind(answers.kind).evaluated_on(answers.metric), "")
    return f"pair = {_toml(list(answers.pair))}  # {comment}\n"


def _query_text(query: str | None) -> str:
    return f"query = {_toml(query)}  # rows with the same value are passages of one query\n" if query else ""


def _held_out_text(kind: str) -> str:
    rule = "all rows of a query stay together"
    return rule if task_kind(kind).judges_groups else 'add by = "sentence" if rows are parts of other rows'


def _batch_text(kind: str) -> str:
    return "  # pairs per inference; k if you rank lists of k passages" if task_kind(kind).judges_groups else ""


def _toml(value: str | list[str]) -> str:
    """Return a string, or a list of strings, as a TOML literal."""
    return json.dumps(value, ensure_ascii=False)


def _relative_to(folder: Path, name: str) -> str:
    """Return a path relative to the folder of the study. An absolute path is not changed."""
    path = given_path(name)
    if path.is_absolute():
        return path.as_posix()
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def _exclusion_text(space: SearchSpace, runtime: str) -> str:
    """Return the setting that excludes the methods that the runtime does not support.

    Empty if it supports all methods.
    """
    unsupported = _unsupported(space, runtime)
    return f"exclude_compression = {json.dumps(unsupported)}  # not supported by {runtime}\n" if unsupported else ""


def _unsupported(space: SearchSpace, runtime: str) -> list[str]:
    """Return the compression methods of a search space that a runtime cannot execute, in alphabetical order."""
    offered = {choice for block in BLOCKS for choice in getattr(space.compression, block)}
    return sorted(choice for choice in offered if runtime not in compression(choice).runtimes)


def budget_table(budget: str, device: str) -> dict[str, Any]:
    """Return a budget as a dictionary, in the structure of `[[budgets]]` in a study file.

    `budget` has the notation of `nas init --budget`, such as "fast=20%". Raises `StudyError` if its limit is not valid.
    """
    table: dict[str, Any] = tomllib.loads(_budget_text(budget))["budgets"][0]
    return table | {"device": device}


def _budget_text(budget: str) -> str:
    """Return a budget as TOML text.

    Raises `StudyError` if its limit is not a share, a number of milliseconds or a number of points.
    """
    name, _, limit = budget.rpartition("=")
    name, limit = name.strip(), "".join(limit.split())
    if name and not re.fullmatch(NAME, name):
        raise StudyError(
            f"--budget {budget}: the budget's name must consist of letters, digits, dots, dashes and underscores and "
            f"begin with a letter or digit, but is {name!r}; change it (for several budgets, repeat --budget)"
        )
    is_share, is_loss = limit.endswith("%"), limit.endswith("pt")
    try:
        number = float(limit.removesuffix("%").removesuffix("pt"))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and (number > 0.0 or (is_loss and number == 0.0))):
        raise StudyError(
            f'--budget {budget}: must be a share such as "20%", milliseconds such as 4.0, or points of accuracy that '
            "may be lost such as 1pt; correct it"
        )
    value: Any = limit if is_share else number
    if is_loss:
        return f"""
[[budgets]]
name = {_toml(name or f"{limit.removesuffix('pt')}-point{'' if value == 1 else 's'}")}
device = "here"
accuracy_loss = {json.dumps(value)}  # maximum loss in points on the search set; the fastest network within it is chosen
# minimise = "size_mb"  # the smallest network instead of the fastest
"""
    return f"""
[[budgets]]
name = {_toml(name or (f"{limit[:-1]}-percent" if is_share else f"{limit}-ms"))}
device = "here"
p50_ms = {json.dumps(value)}  # median latency: a share of the teacher's, or milliseconds
"""
