"""The subcommands of `nas device`, for devices that are outside the Ray cluster and do not run `nas` themselves.

`bundle` writes an archive with a program that measures latency on such a device. `import` reads the program's result
into the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.app import RUNS, JsonOption, RunsOption, SetOption, StudyArgument, app, examples, finish, load, work_on
from nas.cli.steps import about_profile, results
from nas.errors import NasError

if TYPE_CHECKING:
    from nas.pipeline import Run

devices_app = typer.Typer(
    no_args_is_help=True, help="Measure devices on which nas does not run.", rich_markup_mode="markdown"
)
app.add_typer(devices_app, name="device")


def _complete_device(context: typer.Context, incomplete: str) -> list[str]:
    """Return the device names that begin with `incomplete`, from the study given earlier on the command line."""
    try:
        devices = load(context.params["study"], context.params.get("set_")).devices
    except (NasError, KeyError):
        return []
    return [device.name for device in devices if device.name.startswith(incomplete)]


DeviceArgument = Annotated[
    str,
    typer.Argument(
        help="Name of a device that the study declares with where = 'elsewhere'.", autocompletion=_complete_device
    ),
]
ExportOption = Annotated[
    str | None,
    typer.Option(
        "--export",
        metavar="BUDGET",
        help="Budget whose export is measured on the device. Default: the latency profile of the device is measured.",
    ),
]


@devices_app.command(
    epilog=examples("nas device bundle study.toml phone", "nas device bundle study.toml phone --export fast")
)
def bundle(
    study: StudyArgument,
    device: DeviceArgument,
    export_: ExportOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Path of the archive to write. Default: DEVICE.zip, or DEVICE-BUDGET.zip with --export."
        ),
    ] = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Write an archive with a program that measures latency on a device outside the cluster.

    Unpack the archive on the device, run `python run.py` there, and give the result to `nas device import`.
    """

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline.devices import bundle_export, bundle_profile

        name = f"{device}-{export_}.zip" if export_ else f"{device}.zip"
        path = (output or Path(name)).resolve()
        assignments = set_ or []
        archive = (
            bundle_export(run, export_, device, path, assignments)
            if export_
            else bundle_profile(run, device, path, assignments)
        )
        return {"bundle": str(archive), "size_mb": archive.stat().st_size / 1e6}

    result = work_on(study, runs, set_, work)
    print(
        f"bundle: {result['bundle']} ({result['size_mb']:.1f} MB); unpack it on {device}, and run python run.py there"
    )
    finish(json_, result)


@devices_app.command(
    name="import",
    epilog=examples(
        "nas device import study.toml phone result.json", "nas device import study.toml phone result.json --export fast"
    ),
)
def import_(
    study: StudyArgument,
    device: DeviceArgument,
    result: Annotated[Path, typer.Argument(help="The file result.json that run.py wrote on the device.")],
    export_: ExportOption = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Import result.json from a device: the device's profile or, with --export, the measurements of an export."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline.devices import import_profile, import_verification

        if export_:
            return {"exports": {export_: import_verification(run, export_, device, result)}, **results(run)}
        return {device: about_profile(import_profile(run, device, result))}

    from nas.report.tables import print_profiles, print_results

    imported = work_on(study, runs, set_, work)
    (print_results if export_ else print_profiles)(imported)
    finish(json_, imported)
