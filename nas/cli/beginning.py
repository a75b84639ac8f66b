"""The verbs before the first study: what this machine can do, and a study file from a few answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nas.cli.app import JsonOption, OptionalStudyArgument, SetOption, app, examples, finish, import_packages, load
from nas.errors import StudyError

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
    text: Annotated[list[str] | None, _option("--text", "A column of texts; twice for pairs.", "COLUMN")] = None,
    label: Annotated[str | None, _option("--label", "The column of labels.", "COLUMN")] = None,
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
        _option("--budget", "Of the median latency: a share of the teacher's, or ms.", "[NAME=]LIMIT"),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a study file. What is not given is asked for on a terminal, with what fits as the answer proposed."""
    import_packages()
    from nas.data import read_rows
    from nas.progress import busy
    from nas.proposal import LENGTH, STUDY_FILE, Answers, Columns, Teacher, write_study
    from nas.space import shipped_spaces
    from nas.study import Study

    if (folder / STUDY_FILE).exists():
        raise StudyError(f"{folder / STUDY_FILE}: is there already; remove it, or give another folder")
    teacher = _ask("--teacher", "Teacher: a folder or hub id", teacher)
    known = Teacher.at(teacher)
    if known is None:  # its sizes are not known before it is downloaded
        shipped = ", ".join(sorted(shipped_spaces()))
        space = _ask("--space", f"Search space for {teacher}: {shipped}, or a TOML file", space)
    train = _ask("--train", "Training data: Parquet, CSV or JSONL", train)
    test = _ask("--test", "Test data", test)
    columns = None
    if not hub:
        with busy(f"Looking at {train} and {test}"):
            columns = Columns.of(read_rows(train), read_rows(test))
    length = str(min(LENGTH, known.positions) if known else LENGTH)
    answers = Answers(
        teacher=teacher,
        fine_tune=bool(known and not known.classifies) if fine_tune is None else fine_tune,
        hub=hub,
        config=config,
        train=train,
        test=test,
        text=text or _ask_text(columns),
        label=_ask("--label", "Column of labels", label, columns.label if columns else "label"),
        metric=_ask("--metric", "Metric", metric, columns.metric if columns else "accuracy"),
        space=space,
        runtime=_ask("--runtime", "Runtime", runtime, "onnxruntime"),
        threads=_ask("--threads", "Threads", threads, 1),
        batch_size=_ask("--batch-size", "Batch size", batch_size, 1),
        sequence_length=_ask("--sequence-length", "Tokens of a text", sequence_length, length),
        budgets=budget
        or _ask("--budget", "Budgets: 20%, or 4.0 for milliseconds, with spaces between", None, "20%").split(),
    )
    written = write_study(folder, answers, known, columns)
    for path in written:
        print(f"written: {path}")
    found = Study.load(folder).space
    print(f"search space: {found.name} ({found.description})")
    print(f"next: nas doctor {folder}, nas check {folder}, nas run {folder}")
    finish(json_, {"written": [str(path) for path in written], "search_space": found.name})


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


def _ask_text(columns: Any) -> list[str]:
    found = list(columns.text) if columns else []
    proposed = ", ".join(found) if len(found) in (1, 2) else None
    if proposed is None and columns and not sys.stdin.isatty():
        raise StudyError(f"--text: which columns hold the texts? Give one or two of {', '.join(columns.names)}")
    said = _ask("--text", "Column of texts, or two for pairs with a comma between", None, proposed)
    return found if said == proposed else [name.strip() for name in said.split(",")]


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
