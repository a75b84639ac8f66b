"""Tables that the subcommands of `nas` print: plan, profiles, Pareto front, results, seeds and times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from nas.report.numbers import duration, other_metrics, score, verdict
from nas.report.rows_in_words import rows_in_words
from nas.report.terminal import console


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _print_line(line: str) -> None:
    """Print a line without wrapping it. The terminal wraps it instead, so names can be copied in one piece."""
    console.print(line, soft_wrap=True, markup=False)


def print_plan(plan: dict[str, Any]) -> None:
    """Print the plan of a study: models, devices, budgets, the state and estimated time of each step, and the data."""
    _print_line(f"{plan['study']}: {plan['task']}")
    for model in ("teacher", "student"):
        if model in plan:
            _print_line(f"{model}: {plan[model]}")
    if "outputs" in plan:
        _print_line(f"outputs: {plan['outputs']}")
    _print_line(f"search space: {plan['space']}, {plan['architectures']:,} architectures")
    for device in plan["devices"]:
        _print_line(f"device: {device}")
    for budget in plan["budgets"]:
        _print_line(f"budget: {budget}")
    table = _table("", "step", "state", "estimated")
    for step in plan["steps"]:
        table.add_row(step["step"], step["state"], duration(step["estimated_s"]))
    console.print(table)
    _print_line(f"total: about {duration(plan['estimated_s'])} ({plan['assumption']})")
    if plan["hours"]:
        _print_line(
            f"hours: {plan['hours']:g}, divided among the steps as above; the number of training steps depends on the "
            "speed of this machine"
        )
    if plan["rows"]:
        _print_rows(plan["rows"])
    else:
        _print_line(f"rows: not known yet, because {plan['rows_not_seen']}")


def _print_rows(rows: dict[str, Any]) -> None:
    """Print a table of text lengths, and lines about the labels and possible problems."""
    table = _table("Rows", "set", "rows", "mean tokens", "longest", "truncated")
    for name, lengths in rows["sets"].items():
        sample = "" if lengths["tokenised"] == lengths["rows"] else f" of a sample of {lengths['tokenised']:,}"
        table.add_row(
            name,
            f"{lengths['rows']:,}",
            f"{lengths['mean']:.1f}",
            f"{lengths['longest']:,}",
            f"{lengths['cut']:,}{sample}",
        )
    console.print(table)
    for line in [*rows_in_words(rows), *(f"warning: {warning}" for warning in rows["warnings"])]:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def print_profiles(profiles: dict[str, dict[str, float]]) -> None:
    """Print the results of `nas profile`: latencies of the teacher and the smallest network, and prediction errors."""
    table = _table(
        "Profiles", "device", "teacher p50 ms", "smallest p50 ms", "mean error", "worst", "Kendall tau", "networks", ""
    )
    for name, profile in profiles.items():
        table.add_row(
            name,
            f"{profile['teacher_p50_ms']:.3f}",
            f"{profile['smallest_p50_ms']:.3f}",
            f"{profile['mape']:.1%}",
            f"{profile['worst']:.1%}",
            f"{profile['kendall_tau']:.3f}",
            f"{profile['networks']:.0f}",
            "noisy" if profile["noisy"] else "",
        )
    console.print(table)


def print_front(front: dict[str, Any]) -> None:
    """Print the Pareto front of a search, and the measured candidates of each budget."""
    title = f"Pareto front ({front['metric']} on the search set)"
    table = _table(title, "architecture", "trial", "digest", front["metric"], "predicted")
    for item in front["front"]:
        predicted = ", ".join(f"{value:.3f} ms" for value in item["predicted_ms"].values())
        trial = str(item.get("trial", ""))
        table.add_row(item["description"], trial, item["digest"][:8], f"{item['search_accuracy']:.4f}", predicted)
    console.print(table)
    for budget, items in front["budgets"].items():
        columns = ("architecture", "digest", front["metric"], "p50 ms", "of teacher", "met")
        floor = front.get("floors", {}).get(budget)
        floor_text = f" (at least {floor['least']:.4f} after the final training)" if floor else ""
        table = _table(f"Measured for {budget}{floor_text}", *columns)
        for item in items:
            share = item["p50_ms"] / item["teacher_p50_ms"]
            table.add_row(
                item["description"],
                item["digest"][:8],
                f"{item['search_accuracy']:.4f}",
                f"{item['p50_ms']:.3f}" if item["measured"] else f"{item['p50_ms']:.3f} predicted",
                f"{share:.1%}",
                "yes" if item["met"] else "no",
            )
        console.print(table)


def _without_the_only_device(baselines: dict[str, Any]) -> dict[str, Any]:
    """If there is only one device, return the baselines with the keys `<kind>` instead of `<device>/<kind>`."""
    if len({name.split("/")[0] for name in baselines}) > 1:
        return baselines
    return {name.split("/")[1]: baseline for name, baseline in baselines.items()}


def print_results(result: dict[str, Any]) -> None:
    """Print the results of a run: the baselines and the exports, as measured on the exported files."""
    rows = _without_the_only_device(result["baselines"]) | result["exports"]
    metric = next(iter(rows.values()))["metric"]
    columns = ("", f"test {metric}", "p50 ms", "speed-up", "size MB", "parameters", "budget met")
    table = _table(f"{result['study']}: measured on the exported files", *columns)
    for name, verification in rows.items():
        met = ", ".join(
            ["" if verification["budget"] is None else verdict(verification["met"]), *other_metrics(verification)]
        )
        table.add_row(
            name,
            score(verification["accuracy"], verification["accuracy_standard_error"]),
            "" if verification["p50_ms"] is None else f"{verification['p50_ms']:.3f}",
            "" if verification["speed_up"] is None else f"{verification['speed_up']:.1f}x",
            f"{verification['size_mb']:.1f}",
            f"{verification['params']:,}",
            met,
        )
    console.print(table)
    _print_line(f"files: {result['folder']}/exports")


def print_spread(spread_by_budget: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the test accuracies of each budget for several seeds. If the study has only one seed, print nothing."""
    if not spread_by_budget:
        return
    first_spread = next(iter(spread_by_budget.values()))
    columns = (
        "",
        f"test {first_spread['metric']}: mean",
        *(f"seed {seed}" for seed in first_spread["seeds"]),
        "budget met",
    )
    table = _table("Several seeds: mean and standard error", *columns)
    for name, spread in spread_by_budget.items():
        met = f"{sum(bool(is_met) for is_met in spread['met'])} of {len(spread['met'])}"
        values = (score(value) for value in spread["accuracies"])
        table.add_row(name, score(spread["mean"], spread["standard_error"]), *values, met)
    console.print(table)


def print_times(seconds: Mapping[str, float], parts: Mapping[str, Mapping[str, float]]) -> None:
    """Print the time of each step and of each part of a step, and their fractions of the total time.

    `seconds` is keyed by step, and `parts` by step and then by part. The values are in seconds.
    """
    total = sum(seconds.values())
    table = _table("Time spent", "step", "time", "share")
    for step, step_seconds in seconds.items():
        seconds_by_name = {step: step_seconds} | {
            f"  {part}": part_seconds for part, part_seconds in parts.get(step, {}).items()
        }
        for name, part_seconds in seconds_by_name.items():
            table.add_row(name, duration(part_seconds), f"{part_seconds / total:.0%}" if total else "")
    table.add_row("total", duration(total), "")
    console.print(table)
