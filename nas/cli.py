"""The command `nas`: thin verbs over the public functions. Heavy rooms are imported when a verb needs them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas import __version__
from nas.errors import NasError

if TYPE_CHECKING:
    from nas.latency import Profile
    from nas.pipeline import Run
    from nas.study import Study

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")

devices_app = typer.Typer(no_args_is_help=True, help="Devices off the cluster.", rich_markup_mode="markdown")
app.add_typer(devices_app, name="device")

StudyArgument = Annotated[str, typer.Argument(help="A study.toml, its folder, or the name of a shipped study.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the results of all studies.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Value of a variable of the study.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
FineTuneOption = Annotated[bool, typer.Option(help="Fine-tune each export by distillation.")]
DeviceArgument = Annotated[str, typer.Argument(help="The name of a device of the study, with where = 'elsewhere'.")]
ExportOption = Annotated[
    str | None, typer.Option("--export", metavar="BUDGET", help="Of the export for that budget, not of the profile.")
]
JoinOption = Annotated[
    bool, typer.Option("--join", help="Only evaluate candidates, beside the command that searches this study.")
]
OutputOption = Annotated[Path | None, typer.Option("--output", help="The archive; by default named as the device.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Evaluate candidates on that Ray cluster; auto: on the one that this machine belongs to.",
    ),
]
RUNS = Path("runs")


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except NasError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except OSError as problem:
        print(f"error: {problem.filename or ''}: {problem.strerror or problem}; correct it", file=sys.stderr)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Neural architecture search for compact BERTs, to a latency budget that is measured.

    Each verb does what is missing and skips what is up to date; `nas run STUDY` does them all.
    """
    if version:
        print(__version__)
        raise typer.Exit


def _load(study: str, assignments: list[str] | None) -> Study:
    from nas.errors import StudyError
    from nas.study import Study

    variables = {}
    for assignment in assignments or []:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise StudyError(f"--set {assignment}: must be NAME=VALUE; add the value")
        variables[name] = value
    return Study.load(study, variables)


def _work(
    study: str,
    runs: Path,
    assignments: list[str] | None,
    work: Callable[[Run], Any],
    address: str | None = None,
    alone: bool = True,
) -> Any:
    """Do some work on a run without other libraries' chatter; on a Ray cluster if there is an address.

    `alone`: it writes to the run, so no other may.
    """
    loaded = _load(study, assignments)
    if address:
        from nas.cluster import connect

        connect(address, "--address")
        loaded = loaded.on_ray()
    import datasets
    import transformers

    from nas.pipeline import Run

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    run = Run.of(loaded, runs)
    with run.locked() if alone else nullcontext():
        return work(run)


def _finish(as_json: bool, result: dict[str, Any]) -> None:
    if as_json:
        print(json.dumps(result))


@app.command()
def check(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Validate a study and print the plan: space, budgets, steps, estimated time."""
    loaded = _load(study, set_)
    from nas.pipeline.plan import plan
    from nas.report.tables import print_plan

    found = plan(loaded, runs)
    print_plan(found)
    _finish(json_, found)


@app.command()
def train(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Make the supernet: read the data, fine-tune the teacher if asked, order, train."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import train

        train(run)
        return {"supernet": str(run.supernet), "seconds": run.seconds()}

    result = _work(study, runs, set_, work)
    print(f"supernet: {result['supernet']}")
    _finish(json_, result)


@app.command()
def profile(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Measure the block latencies of each device, and how well they predict whole sub-networks."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import profile

        return {name: _about_profile(found) for name, found in profile(run).items()}

    from nas.report.tables import print_profiles

    result = _work(study, runs, set_, work)
    print_profiles(result)
    _finish(json_, result)


@app.command()
def search(
    study: StudyArgument,
    join: JoinOption = False,
    address: AddressOption = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Search the space; goes on where an earlier search stopped."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import join_search, search_candidates

        return (join_search if join else search_candidates)(run).outcomes

    result = _work(study, runs, set_, work, address, alone=not join)
    print(", ".join(f"{count} {outcome}" for outcome, count in result.items()))
    _finish(json_, result)


@app.command()
def front(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Show the Pareto front and the measured candidates of each budget."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import front

        return front(run)

    from nas.report.tables import print_front

    result = _work(study, runs, set_, work)
    print_front(result)
    _finish(json_, {key: result[key] for key in ("study", "metric", "outcomes", "front", "budgets")})


@app.command()
def export(
    study: StudyArgument,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    fine_tune: FineTuneOption = True,
    json_: JsonOption = False,
) -> None:
    """Fine-tune, write, reload and verify the best sub-network of each budget."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import export

        return {"exports": export(run, fine_tune), **_results(run)}

    from nas.report.tables import print_results

    result = _work(study, runs, set_, work)
    print_results(result)
    _finish(json_, result)


@app.command()
def report(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Write one HTML page with the front, the architectures and the latency error."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline.reports import report

        return {"report": str(report(run))}

    result = _work(study, runs, set_, work)
    print(f"report: {result['report']}")
    _finish(json_, result)


@devices_app.command()
def bundle(
    study: StudyArgument,
    device: DeviceArgument,
    export_: ExportOption = None,
    output: OutputOption = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Write an archive that measures a device off the cluster: `python run.py` in it, then `nas device import`."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline.devices import bundle_export, bundle_profile

        name = f"{device}-{export_}.zip" if export_ else f"{device}.zip"
        path = (output or Path(name)).resolve()
        written = bundle_export(run, export_, device, path) if export_ else bundle_profile(run, device, path)
        return {"bundle": str(written), "size_mb": written.stat().st_size / 1e6}

    result = _work(study, runs, set_, work)
    print(f"bundle: {result['bundle']} ({result['size_mb']:.1f} MB); unpack it on {device} and run: python run.py")
    _finish(json_, result)


@devices_app.command(name="import")
def import_(
    study: StudyArgument,
    device: DeviceArgument,
    result: Annotated[Path, typer.Argument(help="The result.json that run.py left on the device.")],
    export_: ExportOption = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Take what was measured off the cluster as the device's profile, or as an export's verification."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline.devices import import_profile, import_verification

        if export_:
            return {"exports": {export_: import_verification(run, export_, device, result)}, **_results(run)}
        return {device: _about_profile(import_profile(run, device, result))}

    from nas.report.tables import print_profiles, print_results

    found = _work(study, runs, set_, work)
    (print_results if export_ else print_profiles)(found)
    _finish(json_, found)


@app.command(name="run")
def run_all(
    study: StudyArgument,
    address: AddressOption = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Do all steps; those that are up to date are skipped."""
    _run_all(study, runs, set_, json_, address)


@app.command()
def quickstart(runs: RunsOption = RUNS, json_: JsonOption = False) -> None:
    """Run the whole path on an embedded task: no download, about five minutes on two cores."""
    _run_all("quickstart", runs, None, json_)


def _run_all(study: str, runs: Path, set_: list[str] | None, json_: bool, address: str | None = None) -> None:
    def work(run: Run) -> dict[str, Any]:
        from nas.errors import ExportError
        from nas.pipeline import export
        from nas.pipeline.reports import report

        try:
            exports = export(run)
        except ExportError:
            report(run)  # what the other budgets got shall not be lost from sight
            raise
        return {"exports": exports, "report": str(report(run)), **_results(run)}

    from nas.report.tables import print_results

    result = _work(study, runs, set_, work, address)
    print_results(result)
    print(f"report: {result['report']}")
    _finish(json_, result)


def _about_profile(found: Profile) -> dict[str, Any]:
    figures = {"teacher_p50_ms": found.teacher_p50_ms, "smallest_p50_ms": found.smallest_p50_ms, "noisy": found.noisy}
    return {**figures, **found.error}


def _results(run: Run) -> dict[str, Any]:
    from nas.pipeline.exports import baselines

    return {"study": run.study.name, "folder": str(run.folder), "baselines": baselines(run), "seconds": run.seconds()}


if __name__ == "__main__":
    main()
