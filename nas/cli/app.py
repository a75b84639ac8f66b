"""What the verbs share: the application, arguments and options with their completion, how they begin and end."""

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
from nas.limits import refusal

if TYPE_CHECKING:
    from nas.pipeline import Run
    from nas.study import Study

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def examples(*lines: str) -> str:
    """The end of a verb's help."""
    return "\n\n".join(["For example:", *(f"`{line}`" for line in lines)])


def _studies(incomplete: str) -> list[str]:
    from nas.study import shipped_studies

    return [name for name in shipped_studies() if name.startswith(incomplete)]


def _devices(context: typer.Context, incomplete: str) -> list[str]:
    """The devices of the study that stands before."""
    try:
        known = load(context.params["study"], context.params.get("set_")).devices
    except (NasError, KeyError):
        return []
    return [device.name for device in known if device.name.startswith(incomplete)]


_STUDY = typer.Argument(help="A study.toml, its folder, or the name of a shipped study.", autocompletion=_studies)
StudyArgument = Annotated[str, _STUDY]
OptionalStudyArgument = Annotated[str | None, _STUDY]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the results of all studies.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Value of a variable of the study.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
TrialOption = Annotated[
    str | None, typer.Option("--trial", metavar="N", help="One candidate alone: a trial's number or a digest's start.")
]
FineTuneOption = Annotated[bool, typer.Option(help="Fine-tune each export by distillation.")]
DeviceArgument = Annotated[
    str,
    typer.Argument(help="The name of a device of the study, with where = 'elsewhere'.", autocompletion=_devices),
]
ExportOption = Annotated[
    str | None, typer.Option("--export", metavar="BUDGET", help="Of the export for that budget, not of the profile.")
]
OutputOption = Annotated[Path | None, typer.Option("--output", help="The archive; by default named as the device.")]
JoinOption = Annotated[
    bool, typer.Option("--join", help="Only evaluate candidates, beside the command that searches this study.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Evaluate candidates on that Ray cluster; auto: on the one that this machine belongs to.",
    ),
]
HoursOption = Annotated[
    float | None,
    typer.Option(
        "--hours",
        help="Time for the whole run, in place of numbers of steps, also for the run's later commands; 0: none.",
    ),
]
SeedsOption = Annotated[
    int,
    typer.Option(
        "--seeds", min=1, help="Run the study with so many seeds, one after the other, and tell how far exports differ."
    ),
]
RUNS = Path("runs")


def main() -> None:
    """Entry point: a user's mistake or a limit of the machine is one line on standard error and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        try:
            app()
        finally:
            _flush()
    except Exception as problem:
        line = refusal(problem)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(NasError.exit_code)


def _flush() -> None:
    """Write what was printed, so that a full disk under standard output is noticed while it can still be said."""
    try:
        sys.stdout.flush()
    except OSError as problem:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (the interpreter would try once more at its end)
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(problem, BrokenPipeError):
            sys.exit(1)
        raise MachineError(f"standard output: {refusal(problem)}") from None


@app.callback(
    invoke_without_command=True,
    epilog=examples("nas quickstart", "nas init my-study", "nas run my-study", "nas --install-completion"),
)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Neural architecture search for compact BERTs, to a latency budget that is measured.

    Each verb does what is missing and skips what is up to date; `nas run STUDY` does them all.
    """
    if version:
        print(__version__)
        raise typer.Exit


def load(study: str, assignments: list[str] | None) -> Study:
    """The study, with the values that `--set` gives to its variables."""
    from nas.errors import StudyError
    from nas.study import Study

    variables = {}
    for assignment in assignments or []:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise StudyError(f"--set {assignment}: must be NAME=VALUE; add the value")
        variables[name] = value
    return Study.load(study, variables)


def work_on(
    study: str,
    runs: Path,
    assignments: list[str] | None,
    work: Callable[[Run], Any],
    address: str | None = None,
    alone: bool = True,
    hours: float | None = None,
) -> Any:
    """Do some work on a run without other libraries' chatter; on a Ray cluster if there is an address.

    `alone`: it writes to the run, so no other may. See `within` about `hours`.
    """
    loaded = load(study, assignments)
    if address:
        from nas.cluster import connect, processors

        connect(address, "--address")
        loaded = loaded.on_ray(processors())
    import_packages()
    from nas.pipeline import Run

    run = Run.of(within(loaded, runs, hours), runs)
    with run.locked() if alone else run.remembering():
        return work(run)


def within(study: Study, runs: Path, hours: float | None) -> Study:
    """The study in the hours that are given, else in those that its run's supernet was begun with, if it sets none."""
    from nas.pipeline import Run

    run = Run.of(study, runs)
    if hours is None and study.training.hours is None and run.is_started("supernet"):
        hours = run.noted("supernet", "hours")
    return study if hours is None else study.within(hours)


def import_packages() -> None:
    """Import what all steps need, and keep other libraries' progress and warnings from the person who waits."""
    from nas.progress import busy

    with busy("Loading packages"):
        import datasets
        import transformers

        import nas.pipeline  # noqa: F401

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it cannot read is said as an error of ours
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def finish(as_json: bool, result: dict[str, Any]) -> None:
    """The last line, for programs."""
    if as_json:
        print(json.dumps(result))
