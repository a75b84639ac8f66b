"""After a search, measures the best candidates for each budget as complete networks.

`measure_front` returns the content of `front.json`, from which the finalists for the final training are selected.
`compared_at` replaces accuracy floors with cost limits, so that uniform networks (the baseline) and candidates can be
compared at equal cost. `nas/pipeline/searches.py` calls both functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import Any

from nas.architecture import Architecture
from nas.budget import COST_METRICS, LATENCIES, RATES, STORED, Budget, Floor
from nas.evaluate import CandidateResult
from nas.latency.exits import measure_with_exits
from nas.latency.measure import Texts, measure_peak_memory
from nas.latency.profile import Profile
from nas.latency.record import latency_metrics
from nas.model import CompactBert
from nas.search.costs import Costs, safety_factor
from nas.search.front import along_the_front, cheapest_reaching, pareto_front, ranking
from nas.search.loop import SearchState
from nas.study import Study

_TEACHER = "teacher"
_ENOUGH_CANDIDATES = 3
"""Once this many measured candidates meet a budget, candidates with a lower objective than theirs are not measured."""
FLOOR_FACTOR = 2
"""For a budget with an accuracy floor, the numbers of measured candidates and of finalists are multiplied by this
factor.

Such a budget needs more candidates, because it is not known in advance how much the final training improves each of
them.
"""
_MARGIN = 0.04
"""The relative margin by which measured latencies and rates must meet their limits.

Without the margin, a network could meet a limit in this measurement but violate it in a later one, because of noise.
"""
Extract = Callable[[Architecture], CompactBert]


@dataclass(frozen=True)
class Measurement:
    """Everything that is needed to measure candidates as complete networks."""

    extract: Extract
    teacher: Architecture
    """The teacher's architecture. It is measured together with the candidates, as the reference network."""
    costs: Costs
    texts: Texts


def compared_at(costs: Costs, results: Sequence[CandidateResult], count: int) -> Costs:
    """Return a copy of `costs` in which each budget with an accuracy floor is replaced by a budget with one limit.

    Uniform networks then compete with a candidate of the search at equal cost: the limit is the predicted cost of this
    candidate, plus the safety margin if the cost is a latency. Among the candidates that will be measured for the
    budget (at most `FLOOR_FACTOR * count`), this candidate is the cheapest one that reaches the accuracy
    `floor.levels[1]`, or the most accurate one if none does. A budget for which no candidate will be measured is not
    replaced.
    """
    budgets = list[Budget]()
    for budget in costs.budgets:
        floor = costs.floors.get(budget.name)
        candidate = _compared_candidate(costs, results, budget, floor, count) if floor else None
        if floor and candidate:
            limit = costs.minimised(candidate.architecture, floor, candidate.exits)
            limit *= safety_factor(floor.minimise, costs.profiles[floor.device])
            limited = {"name": budget.name, "device": floor.device, floor.minimise: limit}
            budgets.append(Budget.model_validate(limited))
        else:
            budgets.append(budget)
    return replace(costs, budgets=tuple(budgets))


def _compared_candidate(
    costs: Costs, results: Sequence[CandidateResult], budget: Budget, floor: Floor, count: int
) -> CandidateResult | None:
    """Return the candidate with which uniform networks are compared (see `compared_at`), or None if there is none."""
    measured = along_the_front(
        ranking(results, costs, budget, _tolerance(costs, budget)), costs, floor, FLOOR_FACTOR * count
    )
    return cheapest_reaching(measured, costs, floor, floor.levels[1]) or next(iter(measured), None)


def _tolerance(costs: Costs, budget: Budget) -> float:
    """Return the largest predicted violation of a budget at which a candidate is still measured."""
    return min(costs.profiles[name].error["mape"] for name in budget.devices)


def measure_front(
    measurement: Measurement, state: SearchState, study: Study, uniform: Mapping[str, Sequence[CandidateResult]]
) -> dict[str, Any]:
    """Measure the best candidates for each budget, and return the content of `front.json`.

    The content includes all evaluated candidates, the Pareto front, and the measured candidates of each budget.
    `uniform` holds a list of uniform networks for each budget, best first, keyed by budget name. For each budget, the
    content also includes the first of these networks that meets the budget in the measurement.
    """
    costs = measurement.costs
    reports = {
        result.architecture: {"trial": number} | _describe(result, costs)
        for number, result in zip(state.numbers, state.results, strict=True)
    }
    names = sorted(costs.profiles)
    front = pareto_front(
        [result for result in state.results if result.complete],
        lambda result: tuple(reports[result.architecture]["predicted_ms"][name] for name in names),
    )
    budgets, uniform_reports = dict[str, Any](), dict[str, Any]()
    for budget in study.budgets:
        count, baselines = study.export.candidates, uniform.get(budget.name, ())
        budgets[budget.name], measured = measure_budget(measurement, state.results, budget, count, baselines)
        uniform_reports[budget.name] = next((item for item in measured if item["met"]), None)
        floor = costs.floors.get(budget.name)
        compared = _compared_candidate(costs, state.results, budget, floor, count) if floor else None
        if compared and uniform_reports[budget.name]:
            uniform_reports[budget.name] |= {"against": compared.architecture.digest}
    return {
        "study": study.name,
        "outcomes": state.outcomes,
        "search_examples": max((result.examples for result in state.results), default=0),
        "teacher_p50_ms": {name: profile.teacher_p50_ms for name, profile in costs.profiles.items()},
        **({"floors": {name: floor.to_json() for name, floor in costs.floors.items()}} if costs.floors else {}),
        "profile_error": {name: profile.error for name, profile in costs.profiles.items()},
        "front": [reports[result.architecture] for result in front],
        "budgets": budgets,
        "uniform": uniform_reports,
        "candidates": list(reports.values()),
    }


def _describe(result: CandidateResult, costs: Costs) -> dict[str, Any]:
    stored = costs.stored(result.architecture)
    return {
        "digest": result.architecture.digest,
        "description": result.architecture.describe(),
        "architecture": result.architecture.to_json(),
        "search_accuracy": result.accuracy,
        **({} if result.confidence is None else {"search_confidence": result.confidence}),
        "predicted_ms": {
            name: round(value, 4) for name, value in costs.predict_ms(result.architecture, result.exits).items()
        },
        **({"exits": list(result.exits)} if result.exits else {}),
        **({} if result.complete else {"stopped_after": result.examples}),
        "size_mb": round(stored["size_mb"], 3),
        "params": stored["params"],
    }


def measure_budget(
    measurement: Measurement,
    results: Sequence[CandidateResult],
    budget: Budget,
    count: int,
    baselines: Sequence[CandidateResult] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure the best candidates for a budget, `count` at a time, until enough of them meet the budget.

    Returns two lists of reports: one about the candidates, in descending order of objective, and one about the networks
    in `baselines`. The baselines are measured together with the first candidates. If the first baseline that meets the
    budget has a higher objective than all candidates that meet it, and the budget has no accuracy floor, this baseline
    is also in the first list, with the entry `uniform`.

    Several candidates must meet the budget: if an export violates the budget in the later verification, another
    candidate replaces it. For a budget with an accuracy floor, `FLOOR_FACTOR` times as many candidates are measured,
    spread along the Pareto front around the floor.

    The measurements correct the predictions for the candidates that are still to be measured. If the machine is slower
    than when it was profiled, fewer candidates qualify. If it is faster, more accurate candidates may qualify. This
    process cannot measure a device outside the cluster. For such a device, it uses predictions, and the user later
    verifies the export on the device.
    """
    costs, all_baselines = measurement.costs, baselines
    waiting, slowdown = ranking(results, costs, budget, float("inf")), 1.0
    measured, baseline_reports = list[tuple[CandidateResult, dict[str, Any]]](), list[dict[str, Any]]()
    while True:
        met = [result.objective for result, report in measured if report["met"]]
        chosen = _next_candidates(costs, budget, waiting, met, count, slowdown)
        batch = [*chosen, *baselines]
        if not batch:
            break
        reports = _measure_candidates(measurement, batch, budget)
        slowdown = median(
            (1.0 + report["excess"]) / _predicted_use(costs, budget, result)
            for report, result in zip(reports, batch, strict=True)
        )
        waiting = [result for result in waiting if result not in chosen]
        measured += zip(chosen, reports[: len(chosen)], strict=True)
        baseline_reports += reports[len(chosen) :]
        baselines = ()
    if budget.name not in costs.floors:
        measured += _better_baseline(all_baselines, baseline_reports, measured)
    return [report for _, report in sorted(measured, key=lambda pair: -pair[0].objective)], baseline_reports


def _better_baseline(
    baselines: Sequence[CandidateResult],
    reports: Sequence[dict[str, Any]],
    measured: Sequence[tuple[CandidateResult, dict[str, Any]]],
) -> list[tuple[CandidateResult, dict[str, Any]]]:
    """Return the first baseline that meets the budget, unless a measured candidate meets it and is at least as good."""
    best = next((pair for pair in zip(baselines, reports, strict=True) if pair[1]["met"]), None)
    if best is None or any(result.objective >= best[0].objective for result, report in measured if report["met"]):
        return []
    return [(best[0], best[1] | {"uniform": True})]


def _next_candidates(
    costs: Costs,
    budget: Budget,
    waiting: Sequence[CandidateResult],
    met: Sequence[float],
    count: int,
    slowdown: float,
) -> list[CandidateResult]:
    """Return the candidates to measure next.

    The list is empty if enough candidates meet the budget, or if no candidate in `waiting` is likely to meet it.
    `waiting` holds the candidates that have not been measured, best first. `met` holds the objectives of the measured
    candidates that met the budget. `slowdown` is the ratio of measured to predicted costs so far.
    """
    enough = min(count, _ENOUGH_CANDIDATES)
    objective_to_exceed = sorted(met, reverse=True)[enough - 1] if len(met) >= enough else -float("inf")
    allowed = 1.0 + _tolerance(costs, budget)
    candidates = (
        result
        for result in waiting
        if result.objective > objective_to_exceed and _predicted_use(costs, budget, result, slowdown) <= allowed
    )
    floor = costs.floors.get(budget.name)
    if floor is None:
        return list(islice(candidates, count))
    return [] if met else along_the_front(list(candidates), costs, floor, FLOOR_FACTOR * count)


def _predicted_use(costs: Costs, budget: Budget, result: CandidateResult, slowdown: float = 1.0) -> float:
    """Return the predicted cost of a candidate as a fraction of the budget's limit.

    If the budget has several limits, return the largest of the fractions.
    """
    return 1.0 + costs.violation(result.architecture, budget, result.exits, slowdown)


def _measure_candidates(
    measurement: Measurement, chosen: Sequence[CandidateResult], budget: Budget
) -> list[dict[str, Any]]:
    """Measure candidates for a budget, and return one report per candidate.

    A candidate counts as meeting the budget only if it would still meet all limits with latencies and rates that are
    worse by `_MARGIN`.
    """
    costs = measurement.costs
    devices = [costs.profiles[name].device for name in budget.devices]
    # The first model is the reference network of the measurement.
    models = {_TEACHER: measurement.extract(measurement.teacher)}
    models |= {result.architecture.digest: measurement.extract(result.architecture) for result in chosen}
    metrics_by_device = {
        device.name: _metrics_on(costs, costs.profiles[device.name], chosen, models, budget, measurement.texts)
        for device in devices
    }
    reports = []
    for result in chosen:
        name = result.architecture.digest
        described = _describe(result, costs)
        stored = {key: described[key] for key in STORED}
        violation = max(
            limits.violation(
                _with_margin(metrics_by_device[limits.device][name]) | stored,
                costs.teachers[limits.device] | metrics_by_device[limits.device][_TEACHER],
            )
            for limits in budget.limits
        )
        device_reports = {
            device: metrics[name] | {"teacher_p50_ms": metrics[_TEACHER]["p50_ms"]}
            for device, metrics in metrics_by_device.items()
        }
        for device in devices:
            device_reports[device.name]["measured"] = device.where != "elsewhere"
        per_device = {"devices": device_reports} if len(device_reports) > 1 else {}
        verdict = {"excess": violation, "met": violation <= 0.0}
        reports.append(described | device_reports[budget.device] | verdict | per_device)
    return reports


def _with_margin(metrics: dict[str, float]) -> dict[str, float]:
    """Return a copy of `metrics` in which all latencies and rates are worse by `_MARGIN`."""
    worse_latencies = {name: value * (1.0 + _MARGIN) for name, value in metrics.items() if name in LATENCIES}
    return metrics | worse_latencies | {name: metrics[name] / (1.0 + _MARGIN) for name in RATES if name in metrics}


def _metrics_on(
    costs: Costs,
    profile: Profile,
    chosen: Sequence[CandidateResult],
    models: Mapping[str, CompactBert],
    budget: Budget,
    texts: Texts,
) -> dict[str, dict[str, float]]:
    """Return the metrics of the candidates and the teacher on a device, keyed by network name and then by metric.

    The metrics are measured. If the device is outside the cluster, they are predicted instead.
    """
    device = profile.device
    limits = budget.on(device.name)
    if device.where == "elsewhere":
        names = [name for name in COST_METRICS if name != "peak_memory_mb" or profile.memory]
        metrics = {
            result.architecture.digest: costs.metrics(result.architecture, device.name, result.exits, names)
            for result in chosen
        }
        return metrics | {_TEACHER: profile.teacher}
    exits = {result.architecture.digest: result.exits for result in chosen if result.exits}
    title = f"Measuring the best candidates for {budget.name} on {device.name}"
    records = measure_with_exits(device, models, exits, device.repeats, title, texts)
    metrics = {name: latency_metrics(records[name], records.get(f"{name}/worst")) for name in models}
    if limits and limits.peak_memory_mb is not None:
        for name, peak in measure_peak_memory(device, models, texts).items():
            metrics[name]["peak_memory_mb"] = peak
    return metrics
