"""After the search: the best candidates of each budget are measured whole on its device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nas.evaluate import CandidateResult
from nas.latency import LatencyRecord, Profile, measure
from nas.latency.measure import Network
from nas.model import CompactBertForSequenceClassification
from nas.model.sizes import count_parameters, stored_mb
from nas.search.costs import Costs
from nas.search.front import pareto_front, ranking
from nas.search.loop import SearchState
from nas.space import Architecture
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
        "predicted_ms": {name: round(value, 4) for name, value in costs.predict_ms(result.architecture).items()},
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
        records = _measure([result.architecture for result in chosen], extract, teacher, profile, budget.name)
        for result in chosen:
            own, reference = records[result.architecture.digest], records["teacher"]
            described = _describe(result, costs)
            met = budget.is_met(
                own.p50_ms * (1.0 + _MARGIN), reference.p50_ms, described["size_mb"], described["params"]
            )
            figures = {"p50_ms": own.p50_ms, "p95_ms": own.p95_ms, "teacher_p50_ms": reference.p50_ms, "met": met}
            measured.append(described | figures)
    return measured


def _measure(
    architectures: Sequence[Architecture], extract: Extract, teacher: Architecture, profile: Profile, budget: str
) -> dict[str, LatencyRecord]:
    networks: dict[str, Network] = {architecture.digest: extract(architecture) for architecture in architectures}
    networks["teacher"] = extract(teacher)
    return measure(profile.device, networks, _ROUNDS, f"Measuring the best for {budget}")
