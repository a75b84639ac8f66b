"""After the search: the best candidates of each budget are measured whole on its device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nas.architecture import Architecture
from nas.evaluate import CandidateResult
from nas.latency import LatencyRecord, Profile
from nas.latency.exits import measure_with_exits
from nas.latency.measure import Network
from nas.latency.record import latency_figures
from nas.model import CompactBertForSequenceClassification
from nas.model.sizes import count_parameters, stored_mb
from nas.search.costs import Costs
from nas.search.front import pareto_front, ranking
from nas.search.loop import SearchState
from nas.study import Budget, Study

_ROUNDS = 12
_ENOUGH = 3
_MARGIN = 0.04
"""Share of its latency that a candidate must stay below the limit, so that noise does not undo the verdict later."""
Extract = Callable[[Architecture], CompactBertForSequenceClassification]


def measure_front(
    extract: Extract, teacher: Architecture, state: SearchState, costs: Costs, study: Study
) -> dict[str, Any]:
    """The content of `front.json`: all evaluated candidates, the front, and each budget's measured candidates."""
    reports = {result.architecture: _describe(result, costs) for result in state.results}
    names = sorted(costs.profiles)
    front = pareto_front(
        state.results, lambda result: tuple(reports[result.architecture]["predicted_ms"][name] for name in names)
    )
    budgets = {
        budget.name: _measure_budget(extract, teacher, state.results, costs, study, budget) for budget in study.budgets
    }
    return {
        "study": study.name,
        "metric": study.task.metric,
        "outcomes": state.outcomes,
        "teacher_p50_ms": {name: profile.teacher_p50_ms for name, profile in costs.profiles.items()},
        "profile_error": {name: profile.error for name, profile in costs.profiles.items()},
        "front": [reports[result.architecture] for result in front],
        "budgets": budgets,
        "candidates": list(reports.values()),
    }


def _describe(result: CandidateResult, costs: Costs) -> dict[str, Any]:
    config = costs.config.with_architecture(result.architecture)
    return {
        "digest": result.architecture.digest,
        "description": result.architecture.describe(),
        "architecture": result.architecture.to_json(),
        "search_accuracy": result.accuracy,
        "predicted_ms": {
            name: round(value, 4) for name, value in costs.predict_ms(result.architecture, result.exits).items()
        },
        **({"exits": list(result.exits)} if result.exits else {}),
        "size_mb": round(stored_mb(config), 3),
        "params": count_parameters(config),
    }


def _measure_budget(
    extract: Extract,
    teacher: Architecture,
    results: Sequence[CandidateResult],
    costs: Costs,
    study: Study,
    budget: Budget,
) -> list[dict[str, Any]]:
    """The most accurate candidates of a budget, measured; further ones are taken until enough meet it.

    More than one is enough, so that one can give way should it miss the budget when it is verified.
    """
    profile = costs.profiles[budget.device]
    waiting = ranking(results, costs, budget, tolerance=profile.error["mape"])
    measured: list[dict[str, Any]] = []
    count = study.export.candidates
    while waiting and sum(item["met"] for item in measured) < min(count, _ENOUGH):
        chosen, waiting = waiting[:count], waiting[count:]
        records = _measure(chosen, extract, teacher, profile, budget.name)
        for result in chosen:
            name, reference = result.architecture.digest, records["teacher"]
            described = _describe(result, costs)
            figures = latency_figures(records[name], records.get(f"{name}/worst"))
            cautious = {key: value * (1.0 + _MARGIN) for key, value in figures.items()}
            met = budget.is_met(cautious | described, reference.p50_ms)
            measured.append(described | figures | {"teacher_p50_ms": reference.p50_ms, "met": met})
    return measured


def _measure(
    chosen: Sequence[CandidateResult], extract: Extract, teacher: Architecture, profile: Profile, budget: str
) -> dict[str, LatencyRecord]:
    networks: dict[str, Network] = {result.architecture.digest: extract(result.architecture) for result in chosen}
    networks["teacher"] = extract(teacher)
    exits = {result.architecture.digest: result.exits for result in chosen if result.exits}
    return measure_with_exits(profile.device, networks, exits, _ROUNDS, f"Measuring the best for {budget}")
