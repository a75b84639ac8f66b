"""The subcommands that run the steps of a study or show the results, such as `nas train`, `nas run` and `nas front`.

Each subcommand loads the study, calls functions of `nas.pipeline`, and prints the result. With `--json`, it also prints
the result as a JSON object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.app import (
    RUNS,
    JsonOption,
    RunsOption,
    SetOption,
    StudyArgument,
    app,
    examples,
    finish,
    load,
    with_hours,
    work_on,
)

if TYPE_CHECKING:
    from nas.latency.profile import Profile
    from nas.pipeline import Run

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Evaluate candidates on the Ray cluster at this address. Use 'auto' for the cluster that this machine "
        "belongs to.",
    ),
]
HoursOption = Annotated[
    float | None,
    typer.Option(
        "--hours",
        help="Time limit in hours, shared by this command and all later commands on the same run. With 0, there is no "
        "time limit, and the study determines the number of training steps.",
    ),
]


@app.command(
    epilog=examples(
        "nas check study.toml",
        "nas check study.toml --hours 1",
        "nas check sst2-minilm-onnxruntime --set MINILM=/models/minilm --set SST2=/data/sst2",
    )
)
def check(
    study: StudyArgument,
    hours: HoursOption = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Validate a study and its data, and print the plan: search space, budgets, steps and estimated time."""
    loaded = with_hours(load(study, set_), runs, hours)
    from nas.pipeline.plan import plan
    from nas.report.tables import print_plan

    planned = plan(loaded, runs)
    print_plan(planned)
    finish(json_, planned)


@app.command(epilog=examples("nas train study.toml"))
def train(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Train the supernet, after reading the data and preparing the teacher."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import train
        from nas.pipeline.steps import seconds

        train(run)
        return {"supernet": str(run.supernet), "seconds": seconds(run)}

    result = work_on(study, runs, set_, work)
    print(f"supernet: {result['supernet']}")
    finish(json_, result)


@app.command(epilog=examples("nas profile study.toml --json"))
def profile(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Measure the latency of network blocks on each device, and test latency predictions for sub-networks."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import profile

        return {name: about_profile(device_profile) for name, device_profile in profile(run).items()}

    from nas.report.tables import print_profiles

    result = work_on(study, runs, set_, work)
    print_profiles(result)
    finish(json_, result)


@app.command(
    epilog=examples("nas search study.toml", "nas search study.toml --address auto", "nas search study.toml --join")
)
def search(
    study: StudyArgument,
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="Only evaluate candidates, to help a command that is already searching this study."
        ),
    ] = False,
    address: AddressOption = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Search for the best sub-networks for each budget, and measure them. An interrupted search is resumed."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import join_search, search_candidates

        return (join_search if join else search_candidates)(run).outcomes

    result = work_on(study, runs, set_, work, address, locked=not join)
    counts = ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in result.items())
    print(f"candidates: {counts}")
    finish(json_, result)


@app.command(epilog=examples("nas front study.toml"))
def front(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Show the Pareto front and the measured candidates for each budget."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import front
        from nas.pipeline.outdated import outdated
        from nas.progress import say

        front_content = front(run)
        if line := outdated(run):
            say(line)
        return front_content

    from nas.report.tables import print_front

    result = work_on(study, runs, set_, work, locked=False)
    print_front(result)
    finish(json_, {key: result[key] for key in ("study", "metric", "outcomes", "front", "budgets")})


@app.command(
    epilog=examples("nas export study.toml", "nas export study.toml --no-fine-tune", "nas export study.toml --trial 3")
)
def export(
    study: StudyArgument,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    trial: Annotated[
        str | None,
        typer.Option(
            "--trial",
            metavar="N",
            help="Export only one candidate of the search, named by its trial number or the start of its digest.",
        ),
    ] = None,
    fine_tune: Annotated[bool, typer.Option(help="Fine-tune each exported network by distillation.")] = True,
    json_: JsonOption = False,
) -> None:
    """Export and verify the best sub-network for each budget, or only one candidate of the search.

    Each network is fine-tuned (unless --no-fine-tune is given), written, reloaded from disk, and measured.
    """

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline import export, export_trial

        exports = export(run, fine_tune) if trial is None else export_trial(run, trial, fine_tune)
        return {"exports": exports, **results(run)}

    from nas.report.tables import print_results

    result = work_on(study, runs, set_, work)
    print_results(result)
    finish(json_, result)


@app.command(epilog=examples("nas report study.toml"))
def report(study: StudyArgument, runs: RunsOption = RUNS, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Write an HTML page with the Pareto front, the architectures and the errors of the latency predictions."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline.reports import report

        return {"report": str(report(run))}

    result = work_on(study, runs, set_, work)
    print(f"report: {result['report']}")
    finish(json_, result)


@app.command(
    name="run",
    epilog=examples(
        "nas run study.toml",
        "nas run study.toml --hours 1",
        "nas run study.toml --seeds 3",
        "nas run study.toml --runs /data/runs --json",
    ),
)
def run_all(
    study: StudyArgument,
    hours: HoursOption = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            min=1,
            help="Run the study with this many seeds, and report how much the exports' accuracies vary.",
        ),
    ] = 1,
    address: AddressOption = None,
    runs: RunsOption = RUNS,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Run all steps of a study that are not up to date. After an interruption, the same command resumes the work."""

    def work(run: Run) -> dict[str, Any]:
        from nas.pipeline.reports import report
        from nas.pipeline.seeds import keep_spread, runs_of_seeds, spread

        verifications_by_seed = {run.study.seed: _export_and_report(run)}
        for seed, seed_run in runs_of_seeds(run, seeds).items():
            if seed not in verifications_by_seed:
                with seed_run.locked():
                    verifications_by_seed[seed] = _export_and_report(seed_run)
        spread_by_budget = spread(verifications_by_seed) if seeds > 1 else {}
        if spread_by_budget:
            keep_spread(run, spread_by_budget)
        return {
            "exports": verifications_by_seed[run.study.seed],
            "seeds": spread_by_budget,
            "report": str(report(run)),
            **results(run),
        }

    from nas.report.tables import print_results, print_spread, print_times

    result = work_on(study, runs, set_, work, address, hours=hours)
    print_results(result)
    print_spread(result["seeds"])
    print_times(result["seconds"], result["parts"])
    print(f"report: {result['report']}")
    finish(json_, result)


@app.command(epilog=examples("nas quickstart --runs /tmp/runs"))
def quickstart(runs: RunsOption = RUNS, json_: JsonOption = False) -> None:
    """Run all steps on a small built-in task. This needs no download and takes about five minutes on two cores."""
    run_all("quickstart", runs=runs, json_=json_)


def _export_and_report(run: Run) -> dict[str, dict[str, Any]]:
    """Export the networks of a run and write the report; return the result of `nas.pipeline.export`."""
    from nas.errors import ExportError
    from nas.pipeline import export
    from nas.pipeline.reports import report

    try:
        verifications = export(run)
    except ExportError:
        report(run)  # shows the exports of the other budgets
        raise
    report(run)
    return verifications


def about_profile(measured_profile: Profile) -> dict[str, Any]:
    """Return the main numbers of a profile and the errors of its latency predictions, for `print_profiles`."""
    figures = {
        "teacher_p50_ms": measured_profile.teacher_p50_ms,
        "smallest_p50_ms": measured_profile.smallest_p50_ms,
        "noisy": measured_profile.noisy,
    }
    return {**figures, **measured_profile.error}


def results(run: Run) -> dict[str, Any]:
    """Return the study's name, the run's folder, the baselines, and the seconds of each finished step and its parts."""
    from nas.pipeline.exports import baselines
    from nas.pipeline.steps import seconds

    entries = {"study": run.study.name, "folder": str(run.folder), "baselines": baselines(run)}
    return {**entries, "seconds": seconds(run), "parts": run.parts()}
