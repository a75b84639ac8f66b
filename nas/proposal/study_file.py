"""The settings that the user has given or confirmed, and the study file that is written from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nas.errors import NasError, StudyError, listed
from nas.files import given_path, write_atomically, write_text
from nas.pipeline.plan import check_sources
from nas.proposal.budget import budget_table
from nas.proposal.space import fitting_space, space_text, unsupported_methods
from nas.proposal.table import Columns
from nas.proposal.teacher import TeacherProperties
from nas.report.rendering import fill
from nas.runtimes import RUNTIMES
from nas.space import SearchSpace
from nas.study import Holdout, Study, is_data_file, study_name
from nas.tasks import REGISTRY, task_kind
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
    """The file or split with the text pairs on which candidates are evaluated. None if the search set is held out from
    the training rows.
    """
    pair: Sequence[str] = ()
    """The two columns of the search and test data that contain the texts of each pair."""
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
    space_file_text = space_text(teacher.shape, [answers.runtime]) if teacher and space == SPACE_FILE else None
    # A `nas init` that was killed may have left an identical search space.
    space_is_new = space_file_text is not None and not (
        space_target.is_file() and space_target.read_bytes() == space_file_text.encode()
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
    def in_study(name: str) -> str:
        return name if answers.hub else _relative_to(folder, name)

    return fill(
        "nas.proposal",
        "study.toml.jinja",
        answers=answers,
        kind=task_kind(answers.kind),
        kinds=REGISTRY,
        columns=columns,
        name=study_name(folder),
        folder_name=folder.resolve().name,
        train=in_study(answers.train),
        test=in_study(answers.test),
        search=in_study(answers.search) if answers.search else None,
        unlabelled=[
            _relative_to(folder, name) if is_data_file(name) else in_study(name) for name in answers.unlabelled
        ],
        holdout_size=Holdout().size_of(columns.rows) if columns else 2000,
        max_length=_max_length(answers, teacher),
        model=_relative_to(folder, answers.teacher) if teacher else answers.teacher,
        prunable=PRUNABLE,
        tokenizer=teacher and teacher.tokenizer,
        space=space,
        runtimes=listed(RUNTIMES),
        unsupported=unsupported_methods(SearchSpace.load(space, base=folder), answers.runtime),
        sequence_length=_tokens(answers) or answers.sequence_length,
        budgets=[budget_table(budget, "here") for budget in answers.budgets],
    )


def _max_length(answers: Answers, teacher: TeacherProperties | None) -> int:
    """Return the proposed maximum length of texts, in tokens.

    It is the device's sequence length, but at least `LENGTH`, and at most the length that the teacher supports.
    """
    longest = max(LENGTH, _tokens(answers) or 0)
    if teacher is None:
        return longest
    most_tokens = task_kind(answers.kind).most_tokens(str(given_path(answers.teacher)))
    return min(longest, teacher.positions, most_tokens or longest)


def _tokens(answers: Answers) -> int | None:
    """Return the sequence length of the device in tokens. None if it is not a number."""
    return int(answers.sequence_length) if answers.sequence_length.isdecimal() else None


def _relative_to(folder: Path, name: str) -> str:
    """Return a path relative to the folder of the study. An absolute path is not changed."""
    path = given_path(name)
    if path.is_absolute():
        return path.as_posix()
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"
