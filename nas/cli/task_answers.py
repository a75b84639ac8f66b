"""Collects the answers about a task for `nas init`: from the options, the data files, or the user on a terminal.

`nas.cli.setup` imports this module only when `nas init` runs, because it imports packages that load slowly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import typer

from nas.data import read_rows
from nas.errors import DataError, StudyError
from nas.files import file_digest, given_path
from nas.progress import busy
from nas.proposal import Clear, Column, Columns, TeacherProperties, text_of
from nas.tasks import REGISTRY, TaskKind, task_kind

T = TypeVar("T", int, str)


def read_columns(train: str, test: str, flag: str = "--train") -> Columns:
    """Return the columns of both data files.

    `flag` is the command-line option that error messages name for the first file. Raises `DataError` if a file cannot
    be read, or if both files have the same content.
    """
    with busy(f"Reading {train} and {test}"):
        paths = [given_path(name) for name in (train, test)]
        training_rows, test_rows = (read_rows(str(path)) for path in paths)
        if file_digest(paths[0]) == file_digest(paths[1]):
            raise DataError(
                f"--test {test}: has the same content as {flag} {train}, but must contain different rows; "
                "split the file in two"
            )
        columns = Columns.of(training_rows, test_rows)
    if not columns.by_name:
        first, second = (", ".join(map(repr, rows.column_names[:5])) for rows in (training_rows, test_rows))
        raise DataError(
            f"--test {test}: must have the same columns as {train}, but the columns are {second} instead of {first}; "
            "rename the columns, or add a header line if the files have none"
        )
    return columns


@dataclass
class TaskAnswers:
    """The answers about the task. The options provide some of them; `settle_texts` or `settle_task` adds the rest.

    Each field has the name of the field of `nas.proposal.Answers` that gets its value.
    """

    text: list[str]
    label: list[str]
    query: str | None
    kind: str | None
    metric: str | None
    fine_tune: bool | None
    search: str | None = None
    pair: list[str] = field(default_factory=list)

    @property
    def learns_from_texts(self) -> bool:
        """Whether the answers imply a task in which networks are trained on texts without labels.

        If `kind` is set, the kind decides. Otherwise, the result is true if `search` or `pair` is set, or if the
        metric `metric` exists only for kinds of task of this type.
        """
        kind = REGISTRY.get(self.kind or "")
        kinds = [kind] if kind else [each for each in REGISTRY.values() if self.metric in each.metrics]
        needs_texts = bool(kinds) and all(each.learns_from_texts for each in kinds)
        return needs_texts or (kind is None and bool(self.search or self.pair))


def settle_texts(train: str, test: str, is_hub: bool, given_answers: TaskAnswers) -> tuple[TaskAnswers, Columns | None]:
    """Return the complete answers for a task that learns from the texts of `train`, and the columns of the data files.

    If networks are evaluated on pairs, the columns are those of the search and test files, otherwise those of the
    training and test files. For a hub data set, they are None. `OpenQuestions.settle` finds the answers that the
    options do not provide. Raises `StudyError` if questions remain open; the message names the options that answer
    them. Raises `DataError` if a file cannot be read.
    """
    answers, open_questions = replace(given_answers, fine_tune=False), OpenQuestions()
    _check_kind(answers.kind)
    answers.kind = answers.kind or next(name for name, kind in REGISTRY.items() if kind.learns_from_texts)
    suggested_text = None if is_hub else text_of(train)
    has_only_texts = _has_only_texts(answers, suggested_text, None if is_hub else test)
    if not has_only_texts:
        question = "File of text pairs, on which candidates are evaluated; none is needed with --metric agreement"
        answers.search = ask("--search", question, answers.search)
    files = (train, test) if has_only_texts else (str(answers.search), test)
    columns = None if is_hub else read_columns(*files, "--train" if has_only_texts else "--search")
    if not answers.text:
        answer = open_questions.settle("--text", "Column of texts to learn from", suggested_text, None, str)
        answers.text = [answer] if answer else []
    if not has_only_texts:
        _settle_pair(columns, answers, open_questions)
    open_questions.refuse()
    kind = REGISTRY[answers.kind]
    if columns and not has_only_texts:
        _check_label(kind, columns, answers)
    evaluation = columns.evaluation(answers.pair, answers.label) if columns else "texts" if has_only_texts else "pairs"
    proposed_metric = next(name for name in kind.metrics if kind.evaluated_on(name) == evaluation)
    answers.metric = ask("--metric", "Metric", answers.metric, proposed_metric)
    return answers, columns


def _has_only_texts(answers: TaskAnswers, text: Any, test: str | None) -> bool:
    """Whether networks are evaluated on texts without labels.

    If a metric is given, the metric decides. Otherwise, the result is true if no option names a search file, pairs or
    labels, and the text column of the test file has the same name as that of the training file. `text` is the column
    that the training file suggests. `test` is the test file, or None for a hub data set.
    """
    if answers.metric:
        return REGISTRY[str(answers.kind)].evaluated_on(answers.metric) == "texts"
    if answers.search or answers.pair or answers.label or test is None:
        return False
    train_text = Clear(answers.text[0]) if answers.text else text
    return isinstance(train_text, Clear) and text_of(test) == train_text


def _settle_pair(pairs: Columns | None, answers: TaskAnswers, open_questions: OpenQuestions) -> None:
    """Complete the answers `pair`, the two columns of texts to compare, and `label`, the column of their scores.

    `pairs` holds the columns of the files with the pairs; None for a hub data set.
    """
    if not answers.pair:
        suggestion = pairs.text if pairs else None
        if isinstance(suggestion, Clear) and len(suggestion.value) != 2:
            suggestion = None
        answer = open_questions.settle("--pair", "Columns of the two texts to compare", suggestion, pairs, ", ".join)
        answers.pair = [name.strip() for name in answer.split(",") if name.strip()]
    if not answers.label:
        question = "Column of scores, or of grades of relevance"
        answer = open_questions.settle(
            "--label", question, pairs.label_for(answers.pair) if pairs else None, pairs, str
        )
        answers.label = [answer] if answer else []


def settle_task(columns: Columns | None, teacher: TeacherProperties | None, given_answers: TaskAnswers) -> TaskAnswers:
    """Return the complete answers (text, label, kind, metric and so on) for a task that learns from labelled rows.

    `OpenQuestions.settle` finds the answers that `given_answers` does not provide. Raises `StudyError` if questions
    remain open; the message names the options that answer them.
    """
    answers, open_questions = replace(given_answers), OpenQuestions()
    if not answers.text:
        question = "Column of texts, or two separated by a comma for text pairs"
        suggested_text = columns and columns.text_for(answers.label)
        answer = open_questions.settle("--text", question, suggested_text, columns, ", ".join)
        names = (
            list(suggested_text.value)
            if isinstance(suggested_text, Clear) and answer == ", ".join(suggested_text.value)
            else [name.strip() for name in answer.split(",")]
        )
        answers.text = [name for name in names if name]
    if not answers.label:
        suggested_label = columns.label_for(answers.text) if columns else Clear("label")
        answer = open_questions.settle("--label", "Column of labels", suggested_label, columns, str)
        answers.label = [answer] if answer else []
    if answers.kind is None and len(answers.label) > 1:
        answers.kind = next(name for name, kind in REGISTRY.items() if kind.several_columns)
    if answers.kind is None and answers.metric:
        label_column = columns.column(answers.label[0]) if columns and answers.label else None
        kinds_with_metric = (kind for kind in REGISTRY.values() if answers.metric in kind.metrics)
        fitting_kinds = (kind.name for kind in kinds_with_metric if label_column is None or _suits(kind, label_column))
        answers.kind = next(fitting_kinds, "classification")
    _check_kind(answers.kind)
    if columns and answers.label:
        columns.check_header(answers.text, answers.label[0])
        if len(answers.label) == 1:
            teacher_outputs = teacher.outputs_for(None) if teacher and not answers.fine_tune else None
            suggested_query = columns.query(answers.text)
            suggested_kind = columns.kind(answers.label[0], teacher_outputs, suggested_query)
            answers.kind = answers.kind or open_questions.settle(
                "--kind", " or ".join(REGISTRY), suggested_kind, columns, str
            )
            kind_of_task = REGISTRY.get(answers.kind)
            if kind_of_task:
                _check_label(kind_of_task, columns, answers)
        if (
            teacher
            and not answers.fine_tune
            and answers.kind
            and (misfit := teacher.misfit(columns, answers.label, answers.kind))
        ):
            answers.fine_tune = open_questions.settle_fine_tuning(misfit, answers.fine_tune)
    open_questions.refuse()
    answers.kind = answers.kind or "classification"
    if columns and answers.query is None and task_kind(answers.kind).judges_groups:
        suggested_query = columns.query(answers.text)
        answers.query = suggested_query if suggested_query not in answers.text else None
    if not answers.metric:
        label_names = _label_names(columns, teacher, answers)
        answers.metric = ask("--metric", "Metric", None, task_kind(answers.kind).proposed_metric(label_names))
    if answers.fine_tune is None:
        answers.fine_tune = bool(teacher and teacher.outputs_for(answers.kind) is None)
    return answers


def _label_names(columns: Columns | None, teacher: TeacherProperties | None, answers: TaskAnswers) -> Sequence[str]:
    """Return the names of the labels: empty if they are unknown, or if there are several label columns.

    If the labels are numbers and the teacher's classifier is kept, the result is the names of the classifier's outputs.
    """
    if columns is None or len(answers.label) != 1:
        return ()
    names = sorted(columns.column(answers.label[0]).counts)
    is_kept = teacher and not answers.fine_tune and teacher.outputs_for(answers.kind) is not None
    return teacher.labels if teacher and is_kept and all(name.isdecimal() for name in names) else names


def _check_kind(name: str | None) -> None:
    """Raise `StudyError` if `name` is given but is not a kind of task."""
    if name is not None and name not in REGISTRY:
        raise StudyError(f"--kind {name}: is not a kind of task; use one of {', '.join(REGISTRY)} instead")


def _check_label(kind: TaskKind, columns: Columns, answers: TaskAnswers) -> None:
    """Raise `DataError` if the label column or, for tagging, the column of words does not fit the kind of task."""
    name, label_column = answers.label[0], columns.column(answers.label[0])
    if not _suits(kind, label_column):
        list_form = f"lists of {'tags' if label_column.form == 'tags' else 'labels'}"
        values = list_form if label_column.has_lists else "one label per row"
        raise DataError(f"--label {name}: a task of kind {kind.name} cannot have {values}; give a different --kind")
    if kind.has_words:
        columns.check_words(answers.text, name)
    if kind.meaning == "scale" and label_column.numbers is None:
        raise DataError(
            f"--label {name}: {kind.name} needs numbers, but the column holds {min(label_column.counts)!r}; correct "
            "the column, or give a different --label or --kind"
        )


def _suits(kind: TaskKind, label: Column) -> bool:
    """Whether a label column holds the type of list that a kind of task needs, or single labels if it needs no list."""
    return label.list_meaning == (kind.meaning if kind.meaning in ("lists", "tags") else None)


class OpenQuestions(list[str]):
    """Messages about questions that could not be answered, mostly because there is no terminal to ask on."""

    def settle(
        self, flag: str, question: str, suggestion: Any, columns: Columns | None, in_words: Callable[[Any], str]
    ) -> str:
        """Return the answer to one question. If there is no answer, record a message and return an empty string.

        `suggestion` is the answer that the data suggests: `Clear`, `Unclear` or None. `in_words` turns the value of a
        clear answer into text. On a terminal, the user is asked, and a clear answer is the default. Without
        a terminal, a clear answer is used. A clear answer to `--kind` is always used, without asking the user.
        """
        clear_answer = in_words(suggestion.value) if isinstance(suggestion, Clear) else None
        if sys.stdin.isatty() and (clear_answer is None or flag != "--kind"):
            if suggestion and clear_answer is None:
                question = f"{question} ({suggestion.why}: {', '.join(suggestion.candidates)})".replace(": )", ")")
            return ask(flag, question, None, clear_answer)
        if clear_answer is not None:
            return clear_answer
        if not suggestion:
            self.append(f"{flag}: must be given, since there is no terminal to ask on ({question})")
        elif flag == "--kind":
            self.append(f"{suggestion.why} Give {' or '.join(f'--kind {kind}' for kind in suggestion.candidates)}")
        else:
            names = ", ".join(suggestion.candidates or (columns.by_name if columns else ()))
            twice = " (twice for a text pair)" if flag == "--text" else ""
            self.append(f"{suggestion.why}: give {flag} with one of {names}{twice}")
        return ""

    def settle_fine_tuning(self, misfit: str, fine_tune: bool | None) -> bool | None:
        """Return whether to fine-tune the teacher with a new classifier.

        `misfit` states why the existing classifier does not fit the task. On a terminal, the user is asked. Unless the
        user agrees, a message about the problem is recorded.
        """
        if fine_tune is None and sys.stdin.isatty():
            if typer.confirm(f"{misfit}. Fine-tune it with a new classifier?", default=True, err=True):
                return True
            fine_tune = False
        remedy = (
            "give a teacher that fits, or a different label"
            if fine_tune is False
            else "give --fine-tune to train a new classifier, or give a different --teacher or --label"
        )
        self.append(f"{misfit}: {remedy}")
        return fine_tune

    def refuse(self) -> None:
        """Raise `StudyError` with all recorded messages, if there are any."""
        if self:
            raise StudyError("; ".join(self))


def ask(flag: str, question: str, given: T | None, proposed: T | None = None) -> T:
    """Return the answer `given` or, if it is None, ask the user on a terminal.

    Without a terminal, return the answer `proposed`, or raise `StudyError` if it is None.
    """
    if given is not None:
        return given
    if sys.stdin.isatty():
        answer: T = typer.prompt(question, default=proposed, err=True)
        return answer
    if proposed is None:
        raise StudyError(f"{flag}: must be given, since there is no terminal to ask on ({question})")
    return proposed
