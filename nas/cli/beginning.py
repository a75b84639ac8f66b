"""The verbs before the first study: what this machine can do, and a study file from a few answers."""

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
    from nas.proposal import Columns, Teacher
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
def init(  # noqa: PLR0913 (an option for each answer)
    folder: Annotated[Path, typer.Argument(help="Where study.toml is written.")] = Path(),
    teacher: Annotated[str | None, _option("--teacher", "A folder or hub id.")] = None,
    fine_tune: Annotated[
        bool | None, typer.Option(help="Fine-tune the teacher first; by default if it has no classifier.")
    ] = None,
    hub: Annotated[str | None, _option("--hub", "A data set of the hub; train and test are then its splits.")] = None,
    config: Annotated[str | None, _option("--config", "Its configuration.")] = None,
    train: Annotated[str | None, _option("--train", "Parquet, CSV or JSONL.")] = None,
    test: Annotated[str | None, _option("--test", "Likewise; read once, for the final figure.")] = None,
    search: Annotated[
        str | None, _option("--search", "For embeddings: pairs of texts with a score, that candidates are judged by.")
    ] = None,
    unlabelled: Annotated[
        list[str] | None, _option("--unlabelled", "Text without labels, to distil the teacher on.", "FILE")
    ] = None,
    text: Annotated[list[str] | None, _option("--text", "The column of texts; twice for pairs.", "COLUMN")] = None,
    label: Annotated[
        list[str] | None, _option("--label", "The column of labels; several times where each is one label.", "COLUMN")
    ] = None,
    pair: Annotated[
        list[str] | None,
        _option("--pair", "For embeddings: twice, the columns of the texts that are compared.", "COLUMN"),
    ] = None,
    query: Annotated[
        str | None, _option("--query", "For a ranking: the column that tells queries apart.", "COLUMN")
    ] = None,
    kind: Annotated[
        str | None,
        _option(
            "--kind",
            "classification, multi_label, regression, ranking, tagging, embedding; by default what the data says.",
        ),
    ] = None,
    metric: Annotated[str | None, _option("--metric", "accuracy, f1, spearman, ...")] = None,
    space: Annotated[str | None, _option("--space", "A search space; by default one that fits the teacher.")] = None,
    runtime: Annotated[str | None, _option("--runtime", "onnxruntime, torch or openvino.")] = None,
    threads: Annotated[int | None, _option("--threads", "That one inference may use.")] = None,
    batch_size: Annotated[int | None, _option("--batch-size", "Texts that come together.")] = None,
    sequence_length: Annotated[
        str | None, _option("--sequence-length", 'Tokens of a text; "task": as the task\'s own texts.')
    ] = None,
    budget: Annotated[
        list[str] | None,
        _option(
            "--budget",
            "A share of the teacher's median latency, as 20%, or ms; or points of accuracy that may be lost, as 1pt.",
            "[NAME=]LIMIT",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a study file. On a terminal it asks for what is not given; elsewhere it refuses what is unclear."""
    import_packages()
    from nas.proposal import LENGTH, STUDY_FILE, Answers, Teacher, write_study
    from nas.space import shipped_spaces
    from nas.study import Study

    _check_folder(folder, STUDY_FILE)
    teacher = _ask("--teacher", "Teacher: a folder or hub id", teacher)
    known = Teacher.at(teacher)
    if known is None:  # its sizes are not known before it is downloaded
        shipped = ", ".join(sorted(shipped_spaces()))
        space = _ask("--space", f"Search space for {teacher}: {shipped}, or a TOML file", space)
    train = _ask("--train", "Training data: Parquet, CSV or JSONL", train)
    test = _ask("--test", "Test data", test)
    given = _Task(text or [], label or [], query, kind, metric, fine_tune, search, pair or [])
    if given.is_judged_by_pairs:
        given.search = _ask("--search", "Pairs of texts with a score, that candidates are judged by", search)
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
        sequence_length=_ask("--sequence-length", "Tokens of a text", sequence_length, length),
        budgets=budget
        or _ask("--budget", "Budgets: 20%, 4.0 for ms, 1pt for a loss, with spaces between", None, "20%").split(),
    )
    written = write_study(folder, answers, known, columns)
    for path in written:
        print(f"written: {path}")
    found = Study.load(folder)
    if found.name != folder.resolve().name:
        print(f"name: {found.name} (a study's name has letters, digits, dots, dashes and underscores only)")
    if columns:
        print(columns.described(task.pair or task.text, task.label, answers.kind, task.query))
    else:
        print(
            f"not looked at: {hub}; text: {', '.join(answers.text)}; label: {', '.join(answers.label)} ({answers.kind})"
        )
        assumed = {"--label": (label, answers.label[0]), "--kind": (kind or metric, answers.kind)}
        if missing := [f"{flag} {taken}" for flag, (given, taken) in assumed.items() if given is None]:
            print(f"assumed: {', '.join(missing)}; give others if the data set has others")
    if task.fine_tune and fine_tune is None:
        print(f"teacher: {teacher} has no classifier for this task yet, so it is fine-tuned first")
    print(f"search space: {found.space.name} ({found.space.description})")
    shown = shlex.quote(str(folder))
    print(f"next: nas doctor {shown}, nas check {shown}, nas run {shown}")
    finish(json_, {"written": [str(path) for path in written], "search_space": found.space.name})


def _check_folder(folder: Path, study_file: str) -> None:
    """Raise `StudyError` where no study can be begun."""
    if (folder / study_file).exists():
        raise StudyError(f"{folder / study_file}: is there already; remove it, or give another folder")
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise StudyError(f"{above}: is a file, and a study needs a folder; give another one")


def _look_at(train: str, test: str, flag: str = "--train") -> Columns:
    """What both data files say. Raises `DataError` if one cannot be read, or if they are the same.

    `flag` is what the first one was given by.
    """
    from nas.data import read_rows
    from nas.files import file_digest, given_path
    from nas.progress import busy
    from nas.proposal import Columns

    with busy(f"Looking at {train} and {test}"):
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
    """What was given of the task, then what was settled."""

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
        """Whether the training data has texts alone, and pairs stand in other files."""
        from nas.tasks import REGISTRY

        known = REGISTRY.get(self.kind or "")
        return bool(known.learns_from_texts if known else self.search or self.pair)


def _settle_pairs(pairs: Columns | None, train: str | None, given: _Task) -> _Task:
    """The columns of a task that learns from the texts of `train` and is judged by pairs, which are in other files.

    As given, else as is clear, else as the person at the terminal says. Raises `StudyError` with all that is unclear
    and the flags that settle it, and `DataError` for a file that cannot be read.
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
        said = unclear.settle("--pair", "Columns of the texts that are compared", found, pairs, ", ".join)
        task.pair = [name.strip() for name in said.split(",") if name.strip()]
    if not task.label:
        said = unclear.settle("--label", "Column of scores", pairs.label if pairs else None, pairs, str)
        task.label = [said] if said else []
    unclear.refuse()
    if pairs:
        _check_label(REGISTRY[task.kind], pairs, task)
    task.metric = _ask("--metric", "Metric", task.metric, REGISTRY[task.kind].metrics[0])
    return task


def _settle_task(columns: Columns | None, teacher: Teacher | None, given: _Task) -> _Task:
    """Text, label, kind and metric: as given, else as is clear, else as the person at the terminal says.

    Raises `StudyError` with all that is unclear and the flags that settle it.
    """
    from nas.columns import Clear
    from nas.tasks import REGISTRY, task_kind

    task, unclear = replace(given), _Unclear()
    if not task.text:
        question = "Column of texts, or two for pairs with a comma between"
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
        raise StudyError(f"--kind {task.kind}: is none of {', '.join(REGISTRY)}; use one of them")
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
    """Raise `DataError` if the column of labels, or that of texts beside it, is none of a kind of task."""
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
    """Whether a column holds labels of a kind of task, as far as lists tell it."""
    return label.list_meaning == (kind.meaning if kind.meaning in ("lists", "tags") else None)


class _Unclear(list[str]):
    """What could not be settled: nobody is at a terminal to be asked."""

    def settle(self, flag: str, question: str, found: Any, columns: Columns | None, shown: Callable[[Any], str]) -> str:
        """What is clear, as the proposal on a terminal; else what is said there, or nothing, and it is noted."""
        from nas.columns import Clear

        clear = shown(found.value) if isinstance(found, Clear) else None
        if sys.stdin.isatty() and (clear is None or flag != "--kind"):
            if found and clear is None:
                question = f"{question} ({found.why}: {', '.join(found.candidates)})".replace(": )", ")")
            return _ask(flag, question, None, clear)
        if clear is not None:
            return clear
        if not found:
            self.append(f"{flag}: is needed where nobody can be asked ({question}); give it")
        elif flag == "--kind":
            self.append(f"{found.why} Give {' or '.join(f'--kind {kind}' for kind in found.candidates)}")
        else:
            names = ", ".join(found.candidates or (columns.found if columns else ()))
            twice = ", twice for a pair" if flag == "--text" else ""
            self.append(f"{found.why}: give {flag} with one of {names}{twice}")
        return ""

    def settle_fine_tuning(self, why: str, given: bool | None) -> bool | None:
        """Whether a teacher whose classifier does not fit is fine-tuned with a new one."""
        if given is None and sys.stdin.isatty():
            if typer.confirm(f"{why}. Fine-tune it with a new classifier?", default=True, err=True):
                return True
            given = False
        remedy = (
            "give another teacher or label"
            if given is False
            else "give --fine-tune for a new classifier, or another --teacher or --label"
        )
        self.append(f"{why}: {remedy}")
        return given

    def refuse(self) -> None:
        """Raise `StudyError` if anything is unclear."""
        if self:
            raise StudyError("; ".join(self))


def _ask(flag: str, question: str, given: T | None, proposed: T | None = None) -> T:
    """What was given, what the person at the terminal says, or what is proposed."""
    if given is not None:
        return given
    if sys.stdin.isatty():
        answer: T = typer.prompt(question, default=proposed, err=True)
        return answer
    if proposed is None:
        raise StudyError(f"{flag}: is needed where nobody can be asked ({question}); give it")
    return proposed


@app.command(epilog=examples("nas doctor", "nas doctor study.toml --json"))
def doctor(
    study: OptionalStudyArgument = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say what this machine can do, and what nas or a study needs that is missing: then the exit code is 2."""
    from nas.doctor import examine
    from nas.report.terminal import print_findings

    found = [finding.to_json() for finding in examine((lambda: load(study, set_)) if study is not None else None)]
    print_findings(found)
    needed = ("packages", "study")
    missing = [finding["name"] for finding in found if finding["about"] in needed and finding["state"] == "missing"]
    finish(json_, {"findings": found, "missing": missing})
    if missing:
        raise typer.Exit(2)
