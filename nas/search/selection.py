"""Selection after the search: measure the best candidates of each budget as whole networks on the budget's devices.

`measure_front` returns the content of `front.json`, from which the final training takes its finalists. Before that,
`compared_at` sets the limits of the uniform baseline. `nas/pipeline/searches.py` calls both functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import Any

from nas.architecture import Architecture
from nas.budget import COST_METRICS, LATENCIES, RATES, STORED, Budget, Floor, Limits
from nas.evaluate import CandidateResult
from nas.latency.exits import measure_with_exits
from nas.latency.measure import Texts, measure_peak_memory
from nas.latency.profile import Profile
from nas.latency.record import latency_metrics
from nas.model import CompactBert
from nas.search.costs import Costs
from nas.search.front import along_the_front, cheapest_reaching, pareto_front, ranking
from nas.search.loop import SearchState
from nas.study import Study

_TEACHER = "teacher"
_ENOUGH = 3
"""Once this many measured candidates meet a budget, less accurate candidates are no longer measured."""
FLOOR_FACTOR = 2
"""For a budget with an accuracy floor, the numbers of measured candidates and of finalists are multiplied by this.

More are needed, because it is not known beforehand how much the final training improves each of them.
"""
_MARGIN = 0.04
"""The relative margin by which latencies and rates must meet their limits, so that noise does not reverse a verdict."""
Extract = Callable[[Architecture], CompactBert]


@dataclass(frozen=True)
class Measurement:
    """Everything that is needed to measure candidates as whole networks."""

    extract: Extract
    teacher: Architecture
    """The reference, which is measured together with the candidates."""
    costs: Costs
    texts: Texts


def compared_at(costs: Costs, results: Sequence[CandidateResult], count: int) -> Costs:
    """Return the costs with limits instead of accuracy floors, so that uniform networks compete at equal cost.

    The limit is the predicted cost of one candidate, plus the safety margin. This candidate is one of those that will
    be measured, at most `FLOOR_FACTOR * count`: the cheapest one that reaches the second of the floor's levels, or the
    most accurate one if none reaches it.
    """
    budgets = list[Budget]()
    for budget in costs.budgets:
        floor = costs.floors.get(budget.name)
        found = _compared(costs, results, budget, floor, count) if floor else None
        if floor and found:
            caution = 1.0 + costs.profiles[floor.device].error["mape"]
            limit = costs.minimised(found.architecture, floor, found.exits) * caution
            limits = Limits.model_validate({"device": floor.device, floor.minimise: limit})
            budgets.append(Budget(name=budget.name, limits=(limits,)))
        else:
            budgets.append(budget)
    return replace(costs, budgets=tuple(budgets))


def _compared(
    costs: Costs, results: Sequence[CandidateResult], budget: Budget, floor: Floor, count: int
) -> CandidateResult | None:
    """Return the candidate that uniform networks are compared with, for a budget with an accuracy floor."""
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
    """Measure the best candidates, and return the content of `front.json`.

    The content includes all evaluated candidates, the front, and the measured candidates of each budget. `uniform`
    holds the uniform networks of each budget, best first. For each budget, the content includes the first of them that
    meets the budget when it is measured.
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
    budgets, others = dict[str, Any](), dict[str, Any]()
    for budget in study.budgets:
        count, baselines = study.export.candidates, uniform.get(budget.name, ())
        budgets[budget.name], measured = measure_budget(measurement, state.results, budget, count, baselines)
        others[budget.name] = next((item for item in measured if item["met"]), None)
        floor = costs.floors.get(budget.name)
        against = _compared(costs, state.results, budget, floor, count) if floor else None
        if against and others[budget.name]:
            others[budget.name] |= {"against": against.architecture.digest}
    return {
        "study": study.name,
        "outcomes": state.outcomes,
        "search_examples": max((result.examples for result in state.results), default=0),
        "teacher_p50_ms": {name: profile.teacher_p50_ms for name, profile in costs.profiles.items()},
        **({"floors": {name: floor.to_json() for name, floor in costs.floors.items()}} if costs.floors else {}),
        "profile_error": {name: profile.error for name, profile in costs.profiles.items()},
        "front": [reports[result.architecture] for result in front],
        "budgets": budgets,
        "uniform": others,
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
    """Measure the best candidates of a budget, `count` at a time, until enough of them meet it.

    Returns a list of reports of the candidates, best first, and a list of reports of the networks in `baselines`, which
    are measured together with the first candidates. Several candidates must meet the budget: if one misses it later,
    when its export is verified, another one can replace it. For a budget with an accuracy floor, `FLOOR_FACTOR` times
    as many candidates are measured. They are spread along the front around the floor.

    The measurements correct the predictions for the remaining candidates. If the machine is slower than when it was
    profiled, fewer candidates qualify. If it is faster, more accurate candidates may qualify. A device outside the
    cluster cannot be measured from here, so predictions are used, and the export is verified on the device later.
    """
    costs, floor = measurement.costs, measurement.costs.floors.get(budget.name)
    tolerance = _tolerance(costs, budget)

    def used(result: CandidateResult, slower: float = 1.0) -> float:
        return 1.0 + costs.violation(result.architecture, budget, result.exits, slower)

    waiting, shift, most = ranking(results, costs, budget, float("inf")), 1.0, min(count, _ENOUGH)
    measured, others = list[tuple[CandidateResult, dict[str, Any]]](), list[dict[str, Any]]()
    while True:
        met = sorted((one.objective for one, item in measured if item["met"]), reverse=True)
        enough = met[most - 1] if len(met) >= most else -float("inf")
        able = (one for one in waiting if one.objective > enough and used(one, shift) <= 1.0 + tolerance)
        if floor is None:
            chosen = list(islice(able, count))
        else:
            chosen = [] if met else along_the_front(list(able), costs, floor, FLOOR_FACTOR * count)
        together = [*chosen, *baselines]
        if not together:
            break
        found = _measured(measurement, together, budget)
        shift = median((1.0 + item["excess"]) / used(one) for item, one in zip(found, together, strict=True))
        waiting = [one for one in waiting if one not in chosen]
        measured += zip(chosen, found[: len(chosen)], strict=True)
        others += found[len(chosen) :]
        baselines = ()
    return [item for _, item in sorted(measured, key=lambda pair: -pair[0].objective)], others


def _measured(measurement: Measurement, chosen: Sequence[CandidateResult], budget: Budget) -> list[dict[str, Any]]:
    """Measure candidates for a budget, and return a report of each.

    A candidate counts as meeting the budget only if it would still meet it with latencies and rates that are worse by
    `_MARGIN`.
    """
    costs = measurement.costs
    devices = [costs.profiles[name].device for name in budget.devices]
    # The first model is the reference of the measurement.
    models = {_TEACHER: measurement.extract(measurement.teacher)}
    models |= {result.architecture.digest: measurement.extract(result.architecture) for result in chosen}
    found = {
        device.name: _metrics_on(costs, costs.profiles[device.name], chosen, models, budget, measurement.texts)
        for device in devices
    }
    measured = []
    for result in chosen:
        name = result.architecture.digest
        described = _describe(result, costs)
        stored = {key: described[key] for key in STORED}
        violation = max(
            limits.violation(
                _cautious(found[limits.device][name]) | stored,
                costs.teacher(limits.device) | found[limits.device][_TEACHER],
            )
            for limits in budget.limits
        )
        own = {
            device.name: found[device.name][name] | {"teacher_p50_ms": found[device.name][_TEACHER]["p50_ms"]}
            for device in devices
        }
        for device in devices:
            own[device.name]["measured"] = device.where != "elsewhere"
        several = {"devices": own} if len(own) > 1 else {}
        measured.append(described | own[budget.device] | {"excess": violation, "met": violation <= 0.0} | several)
    return measured


def _cautious(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics as they would be if all latencies and rates were worse by `_MARGIN`."""
    worse = {name: value * (1.0 + _MARGIN) for name, value in metrics.items() if name in LATENCIES}
    return metrics | worse | {name: metrics[name] / (1.0 + _MARGIN) for name in RATES if name in metrics}


def _metrics_on(
    costs: Costs,
    profile: Profile,
    chosen: Sequence[CandidateResult],
    models: Mapping[str, CompactBert],
    budget: Budget,
    texts: Texts,
) -> dict[str, dict[str, float]]:
    """Return the metrics of the candidates and the teacher on a device: measured, or predicted outside the cluster."""
    device = profile.device
    limits = budget.on(device.name)
    if device.where == "elsewhere":
        names = [name for name in COST_METRICS if name != "peak_memory_mb" or profile.memory]
        found = {
            item.architecture.digest: costs.metrics(item.architecture, device.name, item.exits, names)
            for item in chosen
        }
        return found | {_TEACHER: profile.teacher}
    exits = {result.architecture.digest: result.exits for result in chosen if result.exits}
    title = f"Measuring the best candidates for {budget.name} on {device.name}"
    records = measure_with_exits(device, models, exits, device.repeats, title, texts)
    found = {name: latency_metrics(records[name], records.get(f"{name}/worst")) for name in models}
    if limits and limits.peak_memory_mb is not None:
        for name, peak in measure_peak_memory(device, models, texts).items():
            found[name]["peak_memory_mb"] = peak
    return found
