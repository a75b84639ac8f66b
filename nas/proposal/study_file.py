"""The settings that the user has given or confirmed, and the study file that is written from them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nas.errors import NasError, StudyError
from nas.files import given_path, write_atomically, write_text
from nas.latency.runtimes import RUNTIMES
from nas.pipeline.plan import check_sources
from nas.proposal.budget import budget_text
from nas.proposal.space import fitting_space, space_text, unsupported_methods
from nas.proposal.table import Columns
from nas.proposal.teacher import TeacherProperties
from nas.space import SearchSpace
from nas.study import Holdout, Study, is_data_file, study_name
from nas.tasks import REGISTRY, Evaluation, task_kind
from nas.vocabulary import PRUNABLE

STUDY_FILE, SPACE_FILE = "study.toml", "search_space.toml"
LENGTH = 128
"""The proposed maximum length of texts, in tokens. The proposal is lower if the teacher has fewer positions."""


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
    """The name of a shipped search space, or a TOML file. If it is None, a search space that fits the teacher is chosen
    or created. The teacher must then be in a local folder."""
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

    Return the paths of these files. The study file is created only once it is complete and valid. After an error, no
    new file or folder is left behind. Raises `StudyError` if the folder already contains a study, and the same errors
    as loading the new study.
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
runtime = {_toml(answers.runtime)}  # onnxruntime, torch or openvino
threads = {answers.threads}
batch_size = {answers.batch_size}{_batch_text(kind)}
sequence_length = {tokens or _toml(answers.sequence_length)}  # or several: [16, 64]; "task" for the task's own lengths
{"".join(budget_text(budget) for budget in answers.budgets)}
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
    unsupported = unsupported_methods(space, runtime)
    return f"exclude_compression = {json.dumps(unsupported)}  # not supported by {runtime}\n" if unsupported else ""
