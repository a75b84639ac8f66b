"""The subcommands used before the first run: `nas init` writes a study file, `nas doctor` checks machine and study.

`init` takes its answers from the options and from the data files, in which `nas.proposal` looks for them. On a
terminal, it asks for the rest. `nas.proposal` then writes the study file, which all other subcommands read.
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
    known = TeacherProperties.at(teacher)
    if known is None:  # a model on the hub, whose sizes are unknown until it is downloaded
        shipped = ", ".join(sorted(shipped_spaces()))
        space = _ask("--space", f"Search space for {teacher}: {shipped}, or a TOML file", space)
    train = _ask("--train", "Training data: Parquet, CSV or JSONL", train)
    test = _ask("--test", "Test data", test)
    given = _Task(text or [], label or [], query, kind, metric, fine_tune, search, pair or [])
    if given.is_judged_by_pairs:
        given.search = _ask("--search", "File of scored text pairs, on which candidates are evaluated", search)
        columns = None if hub else _look_at(given.search, test, "--search")
        task = _settle_pairs(columns, None if hub else train, given)
    else:
        columns = None if hub else _look_at(train, test)
        task = _settle_task(columns, known, given)
    length = str(min(LENGTH, known.positions) if known else LENGTH)
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
    written = write_study(folder, answers, known, columns)
    for path in written:
        print(f"written: {path}")
    found = Study.load(folder)
    if found.name != folder.resolve().name:
        print(f"name: {found.name} (only letters, digits, dots, dashes and underscores are allowed in a study's name)")
    if columns:
        print(columns.described(task.pair or task.text, task.label, answers.kind, task.query))
    else:
        print(
            f"not inspected: {hub}; text: {', '.join(answers.text)}; label: {', '.join(answers.label)} ({answers.kind})"
        )
        assumed = {"--label": (label, answers.label[0]), "--kind": (kind or metric, answers.kind)}
        if missing := [f"{flag} {taken}" for flag, (given, taken) in assumed.items() if given is None]:
            print(f"assumed: {', '.join(missing)}; give other values if they do not fit the data set")
    if task.fine_tune and fine_tune is None:
        print(f"teacher: {teacher} has no classifier for this task yet, so it is fine-tuned first")
    print(f"search space: {found.space.name} ({found.space.description})")
    shown = shlex.quote(str(folder))
    print(f"next: nas doctor {shown}, nas check {shown}, nas run {shown}")
    finish(json_, {"written": [str(path) for path in written], "search_space": found.space.name})


def _check_folder(folder: Path, study_file: str) -> None:
    """Raise `StudyError` if the folder already contains a study file, or if it or one of its parents is a file."""
    if (folder / study_file).exists():
        raise StudyError(f"{folder / study_file}: already exists; remove it, or give another folder")
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise StudyError(f"{above}: is a file, but a study needs a folder; give another path")


def _look_at(train: str, test: str, flag: str = "--train") -> Columns:
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
        rows, tested = (read_rows(str(path)) for path in paths)
        if file_digest(paths[0]) == file_digest(paths[1]):
            raise DataError(
                f"--test {test}: has the same content as {flag} {train}, but must hold other rows; "
                "split the file in two"
            )
        return Columns.of(rows, tested)


@dataclass
class _Task:
    """The answers about the task. Options give some of them, and `_settle_pairs` or `_settle_task` adds the others."""

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
        """Whether the training data has no labels, and networks are evaluated on scored text pairs from other files."""
        from nas.tasks import REGISTRY

        known = REGISTRY.get(self.kind or "")
        return bool(known.learns_from_texts if known else self.search or self.pair)


def _settle_pairs(pairs: Columns | None, train: str | None, given: _Task) -> _Task:
    """Return the completed answers for a task that learns from the texts of `train` and is evaluated on text pairs.

    Answers that the options do not give are found as in `_Unclear.settle`. Raises `StudyError` with all questions that
    remain open and the options that answer them, and `DataError` if a file cannot be read.
    """
    from nas.columns import Clear
    from nas.proposal import text_of
    from nas.tasks import REGISTRY

    task, unclear = replace(given, fine_tune=False), _Unclear()
    task.kind = task.kind or next(name for name, kind in REGISTRY.items() if kind.learns_from_texts)
    if not task.text:
        said = unclear.settle("--text", "Column of texts to learn from", text_of(train) if train else None, None, str)
        task.text = [said] if said else []
    if not task.pair:
        found = pairs.text if pairs else None
        if isinstance(found, Clear) and len(found.value) != 2:
            found = None
        said = unclear.settle("--pair", "Columns of the two texts to compare", found, pairs, ", ".join)
        task.pair = [name.strip() for name in said.split(",") if name.strip()]
    if not task.label:
        said = unclear.settle("--label", "Column of scores", pairs.label if pairs else None, pairs, str)
        task.label = [said] if said else []
    unclear.refuse()
    if pairs:
        _check_label(REGISTRY[task.kind], pairs, task)
    task.metric = _ask("--metric", "Metric", task.metric, REGISTRY[task.kind].metrics[0])
    return task


def _settle_task(columns: Columns | None, teacher: TeacherProperties | None, given: _Task) -> _Task:
    """Return the completed answers for a task that learns from labelled rows: text, label, kind, metric and so on.

    Answers that the options do not give are found as in `_Unclear.settle`. Raises `StudyError` with all questions that
    remain open and the options that answer them.
    """
    from nas.columns import Clear
    from nas.tasks import REGISTRY, task_kind

    task, unclear = replace(given), _Unclear()
    if not task.text:
        question = "Column of texts, or two separated by a comma for text pairs"
        found = columns and columns.text_for(task.label)
        said = unclear.settle("--text", question, found, columns, ", ".join)
        names = list(found.value) if isinstance(found, Clear) and said == ", ".join(found.value) else said.split(",")
        task.text = [name.strip() for name in names if name.strip()]
    if not task.label:
        found_label = columns.label_for(task.text) if columns else Clear("label")
        said = unclear.settle("--label", "Column of labels", found_label, columns, str)
        task.label = [said] if said else []
    if task.kind is None and len(task.label) > 1:
        task.kind = next(name for name, kind in REGISTRY.items() if kind.several_columns)
    if task.kind is None and task.metric:
        held = columns.column(task.label[0]) if columns and task.label else None
        able = (kind for kind in REGISTRY.values() if task.metric in kind.metrics)
        fit = (kind.name for kind in able if held is None or _suits(kind, held))
        task.kind = next(fit, "classification")
    if task.kind is not None and task.kind not in REGISTRY:
        raise StudyError(f"--kind {task.kind}: must be one of {', '.join(REGISTRY)}; use one of them")
    if columns and task.label:
        if len(task.label) == 1:
            fitting = teacher.outputs_for(None) if teacher and not task.fine_tune else None
            found_query = columns.query(task.text)
            found_kind = columns.kind(task.label[0], fitting, found_query)
            task.kind = task.kind or unclear.settle("--kind", " or ".join(REGISTRY), found_kind, columns, str)
            known = REGISTRY.get(task.kind)
            if known:
                _check_label(known, columns, task)
        if teacher and not task.fine_tune and task.kind and (why := teacher.misfit(columns, task.label, task.kind)):
            task.fine_tune = unclear.settle_fine_tuning(why, task.fine_tune)
    unclear.refuse()
    task.kind = task.kind or "classification"
    if columns and task.query is None and task_kind(task.kind).judges_groups:
        found_query = columns.query(task.text)
        task.query = found_query if found_query not in task.text else None
    task.metric = _ask("--metric", "Metric", task.metric, task_kind(task.kind).metrics[0])
    if task.fine_tune is None:
        task.fine_tune = bool(teacher and teacher.outputs_for(task.kind) is None)
    return task


def _check_label(kind: TaskKind, columns: Columns, task: _Task) -> None:
    """Raise `DataError` if the label column or, for tagging, the column of words does not fit the kind of task."""
    name, held = task.label[0], columns.column(task.label[0])
    if not _suits(kind, held):
        lists = f"lists of {'tags' if held.form == 'tags' else 'labels'}"
        values = lists if held.has_lists else "one label per row"
        raise DataError(f"{name}: a {kind.name} task cannot have {values}; give another --kind")
    if kind.has_words:
        columns.check_words(task.text, name)
    if kind.meaning == "scale" and held.numbers is None:
        raise DataError(
            f"{name}: {kind.name} needs numbers, but the column holds {min(held.counts)!r}; "
            "correct the column, or give --kind classification"
        )


def _suits(kind: TaskKind, label: Column) -> bool:
    """Whether a label column holds the lists that a kind of task needs, or single labels if it needs no lists."""
    return label.list_meaning == (kind.meaning if kind.meaning in ("lists", "tags") else None)


class _Unclear(list[str]):
    """Messages about questions that have no answer yet, mostly because there is no terminal on which to ask them."""

    def settle(self, flag: str, question: str, found: Any, columns: Columns | None, shown: Callable[[Any], str]) -> str:
        """Return the answer to one question. If there is none, record the problem and return an empty string.

        `found` is the answer that the data suggests, either clear or ambiguous, and `shown` turns its value into text.
        On a terminal, the user is asked, and a clear answer is proposed. Without a terminal, a clear answer is used. If
        the kind of task is clear, the user is never asked for it.
        """
        from nas.columns import Clear

        clear = shown(found.value) if isinstance(found, Clear) else None
        if sys.stdin.isatty() and (clear is None or flag != "--kind"):
            if found and clear is None:
                question = f"{question} ({found.why}: {', '.join(found.candidates)})".replace(": )", ")")
            return _ask(flag, question, None, clear)
        if clear is not None:
            return clear
        if not found:
            self.append(f"{flag}: must be given, since there is no terminal to ask on ({question})")
        elif flag == "--kind":
            self.append(f"{found.why} Give {' or '.join(f'--kind {kind}' for kind in found.candidates)}")
        else:
            names = ", ".join(found.candidates or (columns.found if columns else ()))
            twice = " (twice for a text pair)" if flag == "--text" else ""
            self.append(f"{found.why}: give {flag} with one of {names}{twice}")
        return ""

    def settle_fine_tuning(self, why: str, given: bool | None) -> bool | None:
        """Return whether to fine-tune the teacher with a new classifier. `why` states why the old one does not fit.

        On a terminal, the user is asked. If the answer is not yes, the problem is recorded.
        """
        if given is None and sys.stdin.isatty():
            if typer.confirm(f"{why}. Fine-tune it with a new classifier?", default=True, err=True):
                return True
            given = False
        remedy = (
            "give a teacher that fits, or another label"
            if given is False
            else "give --fine-tune to train a new classifier, or give another --teacher or --label"
        )
        self.append(f"{why}: {remedy}")
        return given

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

    found = [finding.to_json() for finding in examine((lambda: load(study, set_)) if study is not None else None)]
    print_findings(found)
    needed = ("packages", "study")
    missing = [finding["name"] for finding in found if finding["about"] in needed and finding["state"] == "missing"]
    finish(json_, {"findings": found, "missing": missing})
    if missing:
        raise typer.Exit(2)
