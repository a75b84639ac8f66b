"""The subcommands used before the first run: `nas init` writes a study file, `nas doctor` checks machine and study.

`init` takes settings from its options, derives further settings from the data files with `nas.proposal`, and asks for
all others if it runs on a terminal. `nas.proposal` then writes the study file, which all other subcommands read.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from nas.cli.app import JsonOption, OptionalStudyArgument, SetOption, app, examples, finish, import_packages, load
from nas.errors import DataError, StudyError

if TYPE_CHECKING:
    from nas.columns import Column
    from nas.proposal import Columns, TeacherProperties
    from nas.tasks import TaskKind

T = TypeVar("T", int, str)


def _option(flag: str, about: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, metavar=metavar, help=about)


@app.command(
    epilog=examples(
        "nas init my-study",
        "nas init my-study --teacher ./my-bert --train train.csv --test test.csv --budget 20% --budget fast=4.0",
        "nas init my-study --teacher ./my-bert --hub stanfordnlp/sst2 --train train --test validation --text sentence",
    )
)
def init(  # noqa: PLR0913 (one option per answer)
    folder: Annotated[Path, typer.Argument(help="Folder in which study.toml is created.")] = Path(),
    teacher: Annotated[
        str | None, _option("--teacher", "Teacher model: a folder, or a model id of the Hugging Face hub.")
    ] = None,
    fine_tune: Annotated[
        bool | None,
        typer.Option(help="Fine-tune the teacher first. Default: only if it has no classifier for the task."),
    ] = None,
    hub: Annotated[
        str | None, _option("--hub", "Data set id of the Hugging Face hub; --train and --test then name its splits.")
    ] = None,
    config: Annotated[str | None, _option("--config", "Configuration of the data set on the hub.")] = None,
    train: Annotated[str | None, _option("--train", "Training data: a Parquet, CSV or JSONL file.")] = None,
    test: Annotated[
        str | None, _option("--test", "Test data, in the same formats. It is read only once, for the final score.")
    ] = None,
    search: Annotated[
        str | None, _option("--search", "For embeddings: file of scored text pairs, on which candidates are evaluated.")
    ] = None,
    unlabelled: Annotated[
        list[str] | None,
        _option("--unlabelled", "Additional texts without labels, for the distillation. Can be repeated.", "FILE"),
    ] = None,
    text: Annotated[
        list[str] | None, _option("--text", "Column of texts. Give it twice for text pairs.", "COLUMN")
    ] = None,
    label: Annotated[
        list[str] | None, _option("--label", "Column of labels. Repeat it if each label has its own column.", "COLUMN")
    ] = None,
    pair: Annotated[
        list[str] | None,
        _option("--pair", "For embeddings: column of texts to compare. Give it twice.", "COLUMN"),
    ] = None,
    query: Annotated[
        str | None, _option("--query", "For ranking: column that identifies the query of each row.", "COLUMN")
    ] = None,
    kind: Annotated[
        str | None,
        _option(
            "--kind",
            "Kind of task: classification, multi_label, regression, ranking, tagging or embedding. Default: the kind "
            "that fits the data.",
        ),
    ] = None,
    metric: Annotated[str | None, _option("--metric", "Metric, such as accuracy, f1 or spearman.")] = None,
    space: Annotated[
        str | None,
        _option("--space", "Search space: a shipped name or a TOML file. Default: one that fits the teacher."),
    ] = None,
    runtime: Annotated[str | None, _option("--runtime", "Inference runtime: onnxruntime, torch or openvino.")] = None,
    threads: Annotated[int | None, _option("--threads", "Number of threads that one inference may use.")] = None,
    batch_size: Annotated[int | None, _option("--batch-size", "Number of texts per inference.")] = None,
    sequence_length: Annotated[
        str | None,
        _option("--sequence-length", 'Number of tokens per text, or "task" for the lengths of the task\'s own texts.'),
    ] = None,
    budget: Annotated[
        list[str] | None,
        _option(
            "--budget",
            "Limit on the median latency, such as 20% (of the teacher's latency) or 4.0 (milliseconds); or a limit on "
            "the loss of accuracy, such as 1pt (one point). Can be repeated.",
            "[NAME=]LIMIT",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a study file from the given options and from the contents of the data files.

    On a terminal, the command asks for all settings that remain open. Without a terminal, it stops and names the
    options to give.
    """
    import_packages()
    from nas.proposal import LENGTH, STUDY_FILE, Answers, TeacherProperties, write_study
    from nas.space import shipped_spaces
    from nas.study import Study

    _check_folder(folder, STUDY_FILE)
    teacher = _ask("--teacher", "Teacher: a folder or a hub id", teacher)
    teacher_properties = TeacherProperties.at(teacher)
    if teacher_properties is None:  # a model on the hub, whose sizes are unknown until it is downloaded
        shipped = ", ".join(sorted(shipped_spaces()))
        space = _ask("--space", f"Search space for {teacher}: {shipped}, or a TOML file", space)
    train = _ask("--train", "Training data: Parquet, CSV or JSONL", train)
    test = _ask("--test", "Test data", test)
    task_answers = _TaskAnswers(text or [], label or [], query, kind, metric, fine_tune, search, pair or [])
    if task_answers.is_judged_by_pairs:
        task_answers.search = _ask("--search", "File of scored text pairs, on which candidates are evaluated", search)
        columns = None if hub else _read_columns(task_answers.search, test, "--search")
        task = _settle_pairs(columns, None if hub else train, task_answers)
    else:
        columns = None if hub else _read_columns(train, test)
        task = _settle_task(columns, teacher_properties, task_answers)
    length = str(min(LENGTH, teacher_properties.positions) if teacher_properties else LENGTH)
    answers = Answers(
        teacher=teacher,
        fine_tune=bool(task.fine_tune),
        hub=hub,
        config=config,
        train=train,
        test=test,
        unlabelled=unlabelled or [],
        text=task.text,
        label=task.label,
        kind=str(task.kind),
        query=task.query,
        search=task.search,
        pair=task.pair,
        metric=str(task.metric),
        space=space,
        runtime=_ask("--runtime", "Runtime", runtime, "onnxruntime"),
        threads=_ask("--threads", "Threads", threads, 1),
        batch_size=_ask("--batch-size", "Batch size", batch_size, 1),
        sequence_length=_ask("--sequence-length", "Tokens per text", sequence_length, length),
        budgets=budget
        or _ask(
            "--budget",
            "Budgets, separated by spaces: 20% (of the teacher's latency), 4.0 (ms) or 1pt (loss of accuracy)",
            None,
            "20%",
        ).split(),
    )
    written_files = write_study(folder, answers, teacher_properties, columns)
    for path in written_files:
        print(f"written: {path}")
    written_study = Study.load(folder)
    if written_study.name != folder.resolve().name:
        print(
            f"name: {written_study.name} (only letters, digits, dots, dashes and underscores are allowed in a study's "
            "name)"
        )
    if columns:
        print(columns.described(task.pair or task.text, task.label, answers.kind, task.query))
    else:
        print(
            f"not inspected: {hub}; text: {', '.join(answers.text)}; label: {', '.join(answers.label)} ({answers.kind})"
        )
        assumed = {"--label": (label, answers.label[0]), "--kind": (kind or metric, answers.kind)}
        if assumptions := [
            f"{flag} {assumed_value}" for flag, (option, assumed_value) in assumed.items() if option is None
        ]:
            print(f"assumed: {', '.join(assumptions)}; give other values if they do not fit the data set")
    if task.fine_tune and fine_tune is None:
        print(f"teacher: {teacher} has no classifier for this task yet, so it is fine-tuned first")
    print(f"search space: {written_study.space.name} ({written_study.space.description})")
    quoted_folder = shlex.quote(str(folder))
    print(f"next: nas doctor {quoted_folder}, nas check {quoted_folder}, nas run {quoted_folder}")
    finish(json_, {"written": [str(path) for path in written_files], "search_space": written_study.space.name})


def _check_folder(folder: Path, study_file: str) -> None:
    """Raise `StudyError` if the folder already contains a study file, or if it or one of its parents is a file."""
    if (folder / study_file).exists():
        raise StudyError(f"{folder / study_file}: already exists; remove it, or give a different folder")
    existing_path = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing_path.is_dir():
        raise StudyError(f"{existing_path}: is a file, but a study needs a folder; give a different path")


def _read_columns(train: str, test: str, flag: str = "--train") -> Columns:
    """Return the columns of both data files.

    `flag` is the option that gave the first file. Raises `DataError` if a file cannot be read, or if both files have
    the same content.
    """
    from nas.data import read_rows
    from nas.files import file_digest, given_path
    from nas.progress import busy
    from nas.proposal import Columns

    with busy(f"Reading {train} and {test}"):
        paths = [given_path(name) for name in (train, test)]
        training_rows, test_rows = (read_rows(str(path)) for path in paths)
        if file_digest(paths[0]) == file_digest(paths[1]):
            raise DataError(
                f"--test {test}: has the same content as {flag} {train}, but must hold different rows; "
                "split the file in two"
            )
        return Columns.of(training_rows, test_rows)


@dataclass
class _TaskAnswers:
    """The answers about the task. The options provide some; `_settle_pairs` or `_settle_task` adds the rest."""

    text: list[str]
    label: list[str]
    query: str | None
    kind: str | None
    metric: str | None
    fine_tune: bool | None
    search: str | None = None
    pair: list[str] = field(default_factory=list)

    @property
    def is_judged_by_pairs(self) -> bool:
        """Whether networks learn from texts without labels and are evaluated on scored text pairs in separate files."""
        from nas.tasks import REGISTRY

        kind = REGISTRY.get(self.kind or "")
        return bool(kind.learns_from_texts if kind else self.search or self.pair)


def _settle_pairs(pairs: Columns | None, train: str | None, given_answers: _TaskAnswers) -> _TaskAnswers:
    """Return the completed answers for a task that learns from the texts of `train` and is evaluated on text pairs.

    Answers missing from the options are found as in `_OpenQuestions.settle`. Raises `StudyError` with all questions
    that remain open and the options that answer them, and `DataError` if a file cannot be read.
    """
    from nas.columns import Clear
    from nas.proposal import text_of
    from nas.tasks import REGISTRY

    answers, open_questions = replace(given_answers, fine_tune=False), _OpenQuestions()
    answers.kind = answers.kind or next(name for name, kind in REGISTRY.items() if kind.learns_from_texts)
    if not answers.text:
        answer = open_questions.settle(
            "--text", "Column of texts to learn from", text_of(train) if train else None, None, str
        )
        answers.text = [answer] if answer else []
    if not answers.pair:
        suggestion = pairs.text if pairs else None
        if isinstance(suggestion, Clear) and len(suggestion.value) != 2:
            suggestion = None
        answer = open_questions.settle("--pair", "Columns of the two texts to compare", suggestion, pairs, ", ".join)
        answers.pair = [name.strip() for name in answer.split(",") if name.strip()]
    if not answers.label:
        answer = open_questions.settle("--label", "Column of scores", pairs.label if pairs else None, pairs, str)
        answers.label = [answer] if answer else []
    open_questions.refuse()
    if pairs:
        _check_label(REGISTRY[answers.kind], pairs, answers)
    answers.metric = _ask("--metric", "Metric", answers.metric, REGISTRY[answers.kind].metrics[0])
    return answers


def _settle_task(
    columns: Columns | None, teacher: TeacherProperties | None, given_answers: _TaskAnswers
) -> _TaskAnswers:
    """Return the completed answers (text, label, kind, metric and so on) for a task that learns from labelled rows.

    Answers missing from the options are found as in `_OpenQuestions.settle`. Raises `StudyError` with all questions
    that remain open and the options that answer them.
    """
    from nas.columns import Clear
    from nas.tasks import REGISTRY, task_kind

    answers, open_questions = replace(given_answers), _OpenQuestions()
    if not answers.text:
        question = "Column of texts, or two separated by a comma for text pairs"
        suggested_text = columns and columns.text_for(answers.label)
        answer = open_questions.settle("--text", question, suggested_text, columns, ", ".join)
        names = (
            list(suggested_text.value)
            if isinstance(suggested_text, Clear) and answer == ", ".join(suggested_text.value)
            else answer.split(",")
        )
        answers.text = [name.strip() for name in names if name.strip()]
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
    if answers.kind is not None and answers.kind not in REGISTRY:
        raise StudyError(f"--kind {answers.kind}: is not a kind of task; use one of {', '.join(REGISTRY)} instead")
    if columns and answers.label:
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
    answers.metric = _ask("--metric", "Metric", answers.metric, task_kind(answers.kind).metrics[0])
    if answers.fine_tune is None:
        answers.fine_tune = bool(teacher and teacher.outputs_for(answers.kind) is None)
    return answers


def _check_label(kind: TaskKind, columns: Columns, answers: _TaskAnswers) -> None:
    """Raise `DataError` if the label column or, for tagging, the column of words does not fit the kind of task."""
    name, label_column = answers.label[0], columns.column(answers.label[0])
    if not _suits(kind, label_column):
        list_form = f"lists of {'tags' if label_column.form == 'tags' else 'labels'}"
        values = list_form if label_column.has_lists else "one label per row"
        raise DataError(f"{name}: a {kind.name} task cannot have {values}; give a different --kind")
    if kind.has_words:
        columns.check_words(answers.text, name)
    if kind.meaning == "scale" and label_column.numbers is None:
        raise DataError(
            f"{name}: {kind.name} needs numbers, but the column holds {min(label_column.counts)!r}; "
            "correct the column, or give --kind classification"
        )


def _suits(kind: TaskKind, label: Column) -> bool:
    """Whether a label column holds the lists that a kind of task needs, or single labels if it needs no lists."""
    return label.list_meaning == (kind.meaning if kind.meaning in ("lists", "tags") else None)


class _OpenQuestions(list[str]):
    """Messages about questions that have no answer yet, mostly because there is no terminal on which to ask them."""

    def settle(
        self, flag: str, question: str, suggestion: Any, columns: Columns | None, in_words: Callable[[Any], str]
    ) -> str:
        """Return the answer to one question. If there is none, record the problem and return an empty string.

        `suggestion` is the answer that the data suggests, which is either clear or ambiguous. `in_words` turns the
        value of a clear answer into text. On a terminal, the user is asked, and a clear answer is proposed. Without a
        terminal, a clear answer is used. If the kind of task is clear, the user is never asked for it.
        """
        from nas.columns import Clear

        clear_answer = in_words(suggestion.value) if isinstance(suggestion, Clear) else None
        if sys.stdin.isatty() and (clear_answer is None or flag != "--kind"):
            if suggestion and clear_answer is None:
                question = f"{question} ({suggestion.why}: {', '.join(suggestion.candidates)})".replace(": )", ")")
            return _ask(flag, question, None, clear_answer)
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

        `misfit` states why the existing classifier does not fit the task. On a terminal, the user is asked. If the
        answer is not yes, the problem is recorded.
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


def _ask(flag: str, question: str, given: T | None, proposed: T | None = None) -> T:
    """Return the given answer. If there is none, ask on a terminal or, without a terminal, return the proposed answer.

    Raises `StudyError` if there is no terminal and no proposed answer.
    """
    if given is not None:
        return given
    if sys.stdin.isatty():
        answer: T = typer.prompt(question, default=proposed, err=True)
        return answer
    if proposed is None:
        raise StudyError(f"{flag}: must be given, since there is no terminal to ask on ({question})")
    return proposed


@app.command(epilog=examples("nas doctor", "nas doctor study.toml --json"))
def doctor(
    study: OptionalStudyArgument = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Report what this machine supports, and what is missing for nas or for the given study.

    The exit code is 2 if something needed is missing.
    """
    from nas.doctor import examine
    from nas.report.terminal import print_findings

    findings = [finding.to_json() for finding in examine((lambda: load(study, set_)) if study is not None else None)]
    print_findings(findings)
    required_subjects = ("packages", "study")
    missing = [
        finding["name"]
        for finding in findings
        if finding["about"] in required_subjects and finding["state"] == "missing"
    ]
    finish(json_, {"findings": findings, "missing": missing})
    if missing:
        raise typer.Exit(2)
