"""The subcommands for setting up a study: `nas init` writes a study file, and `nas doctor` checks machine and study.

`init` takes settings from its options, and derives further settings from the data files with `nas.proposal`. On a
terminal, it asks the user for the settings that are still missing. `nas.proposal` then writes the study file.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli.app import JsonOption, OptionalStudyArgument, SetOption, app, examples, finish, import_packages, load
from nas.errors import StudyError


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
        str | None,
        _option("--test", "Test data, in the same formats. Networks are evaluated on it only for the final results."),
    ] = None,
    search: Annotated[
        str | None,
        _option(
            "--search", "For embeddings: file of text pairs with scores or grades, on which candidates are evaluated."
        ),
    ] = None,
    unlabelled: Annotated[
        list[str] | None,
        _option("--unlabelled", "Additional texts without labels, for the distillation. Can be repeated.", "FILE"),
    ] = None,
    text: Annotated[
        list[str] | None, _option("--text", "Column of texts. Give the option twice for text pairs.", "COLUMN")
    ] = None,
    label: Annotated[
        list[str] | None,
        _option("--label", "Column of labels. Repeat the option if each label has its own column.", "COLUMN"),
    ] = None,
    pair: Annotated[
        list[str] | None,
        _option(
            "--pair",
            "For embeddings: column of texts to compare, or of queries and passages. Give the option twice.",
            "COLUMN",
        ),
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
    runtime: Annotated[
        str | None, _option("--runtime", "Inference runtime, such as onnxruntime, torch or openvino.")
    ] = None,
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

    On a terminal, the command asks for all settings that are still missing. Without a terminal, it stops and names the
    missing options.
    """
    import_packages()
    from nas.cli.task_answers import TaskAnswers, ask, read_columns, settle_task, settle_texts
    from nas.proposal import LENGTH, STUDY_FILE, Answers, TeacherProperties, write_study
    from nas.space import shipped_spaces
    from nas.study import Study

    _check_folder(folder, STUDY_FILE)
    teacher = ask("--teacher", "Teacher: a folder or a hub id", teacher)
    teacher_properties = TeacherProperties.at(teacher)
    if teacher_properties is None:  # a model on the hub, whose sizes are unknown until it is downloaded
        shipped = ", ".join(sorted(shipped_spaces()))
        space = ask("--space", f"Search space for {teacher}: {shipped}, or a TOML file", space)
    train = ask("--train", "Training data: Parquet, CSV or JSONL", train)
    test = ask("--test", "Test data", test)
    task_answers = TaskAnswers(text or [], label or [], query, kind, metric, fine_tune, search, pair or [])
    if task_answers.learns_from_texts:
        task, columns = settle_texts(train, test, hub is not None, task_answers)
    else:
        columns = None if hub else read_columns(train, test)
        task = settle_task(columns, teacher_properties, task_answers)
    length = str(min(LENGTH, teacher_properties.positions) if teacher_properties else LENGTH)
    answers = Answers(
        teacher=teacher,
        hub=hub,
        config=config,
        train=train,
        test=test,
        unlabelled=unlabelled or [],
        space=space,
        runtime=ask("--runtime", "Runtime", runtime, "onnxruntime"),
        threads=ask("--threads", "Threads", threads, 1),
        batch_size=ask("--batch-size", "Batch size", batch_size, 1),
        sequence_length=ask("--sequence-length", "Tokens per text", sequence_length, length),
        budgets=budget
        or ask(
            "--budget",
            "Budgets, separated by spaces: 20% (of the teacher's latency), 4.0 (ms) or 1pt (loss of accuracy)",
            None,
            "20%",
        ).split(),
        **vars(task),
    )
    written_files = write_study(folder, answers, teacher_properties, columns)
    for path in written_files:
        print(f"written: {path}")
    written_study = Study.load(folder)
    if written_study.name != folder.resolve().name:
        print(
            f"name: {written_study.name} (a name can contain only letters, digits, dots, dashes and underscores, so it "
            "differs from the folder's name)"
        )
    if columns:
        print(columns.described(task.pair or task.text, task.label, answers.kind, answers.metric, task.query))
    else:
        label_names = ", ".join(answers.label)
        label_text = f"{label_names or 'none'} ({answers.kind})"
        print(f"data set: {hub} (not inspected); text: {', '.join(answers.text)}; label: {label_text}")
        assumed = {"--label": (label, label_names), "--kind": (kind or metric, answers.kind)}
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
    """Raise `StudyError` if `folder` already contains a study file, or if it or one of its parents is a file."""
    if (folder / study_file).exists():
        raise StudyError(f"{folder / study_file}: already exists; remove it, or give a different folder")
    existing_path = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing_path.is_dir():
        raise StudyError(f"{existing_path}: is a file, but a study needs a folder; give a different path")


@app.command(epilog=examples("nas doctor", "nas doctor study.toml --json"))
def doctor(
    study: OptionalStudyArgument = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Report what this machine supports, and what is missing for nas or for the given study.

    The exit code is 2 if a required package, or something that the study needs, is missing.
    """
    from nas.doctor import examine
    from nas.report.terminal import print_findings

    findings = [asdict(finding) for finding in examine((lambda: load(study, set_)) if study is not None else None)]
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
