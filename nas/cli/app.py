"""Code that the subcommands share: the typer application, common arguments and options, and common functions.

A subcommand is registered on `app`. Subcommands that work on a run call `work_on`, and every subcommand calls `finish`
at the end. `main` is the entry point of the `nas` command. It prints expected errors as one line on standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas import __version__
from nas.errors import MachineError, NasError
from nas.limits import error_line

if TYPE_CHECKING:
    from nas.pipeline import Run
    from nas.study import Study

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def examples(*lines: str) -> str:
    """Return the last part of a subcommand's help text, which shows the command lines `lines` as examples."""
    return "\n\n".join(["For example:", *(f"`{line}`" for line in lines)])


def _complete_study(incomplete: str) -> list[str]:
    """Return the names of shipped studies that begin with `incomplete`, for shell completion."""
    from nas.study import shipped_studies

    return [name for name in shipped_studies() if name.startswith(incomplete)]


_STUDY = typer.Argument(
    help="A study file (study.toml), the folder that contains it, or the name of a shipped study.",
    autocompletion=_complete_study,
)
StudyArgument = Annotated[str, _STUDY]
OptionalStudyArgument = Annotated[str | None, _STUDY]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder for results; each study gets a subfolder of its own.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the study. Can be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]
RUNS = Path("runs")


def main() -> None:
    """Run the `nas` command.

    If an error is due to the user's input or the machine (such as a full disk), print one line on standard error, and
    exit with code 2.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        try:
            app()
        finally:
            _flush()
    except Exception as problem:
        line = error_line(problem)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(NasError.exit_code)


def _flush() -> None:
    """Flush standard output now, so that a write error, such as a full disk, can still be reported."""
    try:
        sys.stdout.flush()
    except OSError as problem:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (the interpreter flushes again when it exits)
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(problem, BrokenPipeError):
            sys.exit(1)
        raise MachineError(f"standard output: {error_line(problem)}") from None


@app.callback(
    invoke_without_command=True,
    epilog=examples("nas quickstart", "nas init my-study", "nas run my-study", "nas --install-completion"),
)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Neural architecture search for compact BERTs that meet a measured latency budget.

    A study file defines the experiment, and `nas run STUDY` runs all of its steps. Each command does only the work
    that is missing or out of date.
    """
    if version:
        print(__version__)
        raise typer.Exit


def load(study: str, assignments: list[str] | None) -> Study:
    """Load a study. `assignments` are the values of the option `--set`, each in the form NAME=VALUE.

    Raises `StudyError` if an assignment does not have this form. Also raises the errors of `Study.load`.
    """
    from nas.errors import StudyError
    from nas.study import Study

    variables = {}
    for assignment in assignments or []:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise StudyError(f"--set {assignment}: must have the form NAME=VALUE; add = and the value")
        variables[name] = value
    return Study.load(study, variables)


def work_on(
    study: str,
    runs: Path,
    assignments: list[str] | None,
    work: Callable[[Run], Any],
    address: str | None = None,
    locked: bool = True,
    hours: float | None = None,
) -> Any:
    """Load a study, call `work` with its run, and return the result of `work`.

    The progress bars and warnings of other libraries are switched off. If `address` is given, candidates are evaluated
    on the Ray cluster at that address. If `locked` is set, the run is locked against other commands. This is required
    if `work` runs steps of the study. `with_hours` explains `hours`.
    """
    loaded = load(study, assignments)
    if address:
        from nas.cluster import connect, cpu_count

        connect(address, "--address")
        loaded = loaded.on_ray(cpu_count())
    import_packages()
    from nas.pipeline import Run

    run = Run.of(with_hours(loaded, runs, hours), runs)
    with run.locked() if locked else run.remembering():
        return work(run)


def with_hours(study: Study, runs: Path, hours: float | None) -> Study:
    """Return the study with the time limit `hours`.

    If neither `hours` nor the study sets a limit, use the limit that was recorded when the supernet's training started.
    If no limit was recorded, return the study unchanged.
    """
    from nas.pipeline import Run

    run = Run.of(study, runs)
    if hours is None and study.training.hours is None and run.is_started("supernet"):
        hours = run.get_note("supernet", "hours")
    return study if hours is None else study.within(hours)


def import_packages() -> None:
    """Import the packages that all steps need, and switch off the progress bars and warnings of other libraries."""
    from nas.progress import busy

    with busy("Loading packages"):
        import datasets
        import transformers

        import nas.pipeline  # noqa: F401

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # nas reports unreadable data itself
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def finish(as_json: bool, result: dict[str, Any]) -> None:
    """If `as_json` is set, print the result as one JSON object on the last line of the output."""
    if as_json:
        print(json.dumps(result))
