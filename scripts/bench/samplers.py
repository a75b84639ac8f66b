"""Compare samplers by the dominated hypervolume that they reach per evaluation and per second, over several seeds.

For each latency, the benchmark determines the best accuracy of the candidates that are predicted to be at least this
fast, or 0 if there are no such candidates. The hypervolume is the mean of this accuracy over all latencies from zero to
the largest one that a budget allows. Slower candidates are never evaluated. Two more values are reported. The first
extends the same mean to the teacher's latency, so it mostly reflects the best accuracy at any latency. The second is
the best accuracy within a budget, averaged over budgets.

By default, evaluations are looked up in `samplers.json`, which was recorded with a real supernet. This table does not
cover the complete search space. For all other architectures, a forest of randomised trees predicts the accuracy. Noise
is added to the prediction, as large as the forest's error in a cross-validation. (The model is not a Gaussian process,
because this would favour the guided sampler, whose surrogate model is one.) With `--live`, evaluations are real. This
needs a run whose supernet is trained and whose devices are profiled. With `--live --record`, each candidate is
evaluated on all texts, and the results are added to the table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import common
import numpy as np
from optuna.samplers import BaseSampler
from rich.console import Console
from rival_samplers import BASELINE, RIVALS
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import cross_val_predict

from nas.architecture import Architecture
from nas.budget import Budget
from nas.device import Device
from nas.errors import SearchError
from nas.evaluate import CandidateResult
from nas.files import read_json, write_text
from nas.latency.profile import Fit, Profile
from nas.pipeline import Run
from nas.pipeline.profiles import costs_of
from nas.pipeline.searches import evaluation
from nas.search import search
from nas.search.costs import Costs
from nas.search.encoding import Encoding
from nas.search.executors import AHEAD, Executor, InlineExecutor
from nas.search.guided import features
from nas.search.sampler import Trials
from nas.space import SearchSpace
from nas.study import Search

TABLE = Path(__file__).with_suffix(".json")
SAMPLERS = ("random", *RIVALS, "nsga2", "tpe", "guided")


class Rival(Trials):
    """The trials of a search whose sampler is one of `RIVALS`."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self._name = name
        super().__init__(*arguments)

    def _sampler(self) -> BaseSampler:
        return RIVALS[self._name](self._distributions, self.seed)


class Recorded:
    """A table of recorded evaluations, and a forest that predicts the accuracy of all other architectures."""

    def __init__(self, path: Path) -> None:
        values = read_json(path, SearchError)
        self.space = SearchSpace.model_validate(values["space"])
        profile = values["profile"]
        device = Device(**profile["device"])
        parsed_profile = Profile(
            **profile | {"device": device, "fit": Fit(**profile["fit"]), "noise": tuple(profile["noise"])}
        )
        budgets = tuple(Budget(**budget) for budget in values["budgets"])
        self.costs = Costs(common.config_of(self.space), {device.name: parsed_profile}, budgets)
        encoding, examples = Encoding(self.space), values["examples"]
        names = encoding.sizes().keys()
        rows = [(dict(zip(names, row, strict=False)), *row[-2:]) for row in values["evaluations"]]
        self.known = {encoding.decode(integers): right / examples for integers, right, _ in rows}
        self.seconds = median(seconds for *_, seconds in rows)
        x = np.stack([features(self.space, architecture) for architecture in self.known])
        y = _negative_log_error(np.array([*self.known.values()]))
        self.model = ExtraTreesRegressor(100, random_state=0)
        errors = (y - cross_val_predict(self.model, x, y, cv=10))[y > np.median(y)]
        self.noise = float(errors.std())
        self.model.fit(x, y)

    def evaluate(self, architecture: Architecture, _: float) -> CandidateResult:
        """Return the recorded result of an architecture.

        If there is none, return the forest's prediction with noise. The noise depends only on the architecture.
        """
        if architecture not in self.known:
            prediction = self.model.predict(features(self.space, architecture)[None])[0]
            prediction += np.random.default_rng(int(architecture.digest, 16)).normal(0.0, self.noise)
            self.known[architecture] = float(1.0 - np.exp(-prediction))
        return CandidateResult(architecture, self.known[architecture], 1, self.seconds)


def _negative_log_error(accuracy: np.ndarray) -> np.ndarray:
    transformed: np.ndarray = -np.log(1.0 - accuracy)
    return transformed


class TimingExecutor(Executor):
    """An executor that records the total time of its evaluations.

    Its queue has the same length as that of `InlineExecutor`.
    """

    def __init__(self, evaluate: Callable[[Architecture, float], CandidateResult]) -> None:
        super().__init__(AHEAD)
        self._evaluate = evaluate
        self.seconds = 0.0

    def next_result(self) -> tuple[int, CandidateResult]:
        started = time.monotonic()
        ticket, *candidate = self._waiting.pop(0)
        result = self._evaluate(*candidate)
        self.seconds += time.monotonic() - started
        return ticket, result


def run_one(
    name: str,
    seed: int,
    count: int,
    space: SearchSpace,
    costs: Costs,
    executor: Executor,
    first_candidates: Sequence[Architecture] = (),
) -> dict[str, Any]:
    """Run one search with a sampler. Return its results, its metrics after each evaluation, and its time in seconds.

    The search evaluates the architectures in `first_candidates` first.
    """
    settings = Search(sampler="random" if name in RIVALS else name, evaluations=count)
    limit, teacher = largest_limit(costs), costs.teachers[costs.budgets[0].device]["p50_ms"]
    started = time.monotonic()
    kind: Callable[..., Trials] = partial(Rival, name) if name in RIVALS else Trials
    with common.temporary_trials(space, costs, settings, seed, kind) as trials:
        trials.begin_with(first_candidates)
        results = search(trials, count, lambda: executor).results
    seconds = time.monotonic() - started
    curves = {
        "hypervolume": hypervolumes(results, costs, limit),
        "hypervolume_to_teacher": hypervolumes(results, costs, teacher),
        "within_budgets": within_budgets(results, costs),
    }
    return curves | {"seconds": seconds, "results": results}


def largest_limit(costs: Costs) -> float:
    """Return the largest median latency, in ms, that a budget allows on the device of the first budget.

    Raises `SearchError` if no budget limits this latency.
    """
    device = costs.budgets[0].device
    limits = [limits for budget in costs.budgets if (limits := budget.on(device)) and limits.p50_ms is not None]
    if not limits:
        raise SearchError(f"budgets: this benchmark needs a budget that limits p50_ms on {device}; add one")
    return max(limits.value("p50_ms", costs.teachers[device]) for limits in limits)


def hypervolumes(results: list[CandidateResult], costs: Costs, limit: float) -> list[float]:
    """Return the hypervolume after each evaluation. It includes latencies from 0 ms to `limit` ms."""
    device, points, volumes = costs.budgets[0].device, list[tuple[float, float]](), list[float]()
    for result in results:
        if result.complete:
            points.append((costs.predict_ms(result.architecture, result.exits)[device], result.accuracy))
        total, best, last_cost = 0.0, 0.0, 0.0
        for cost, accuracy in sorted(points):
            if cost < limit and accuracy > best:
                total, best, last_cost = total + best * (cost - last_cost), accuracy, cost
        volumes.append((total + best * (limit - last_cost)) / limit)
    return volumes


def within_budgets(results: list[CandidateResult], costs: Costs) -> list[float]:
    """Return the best accuracy within a budget so far, averaged over budgets, after each evaluation."""
    means: list[float] = best_within(results, costs).mean(axis=1).tolist()
    return means


def best_within(results: list[CandidateResult], costs: Costs) -> np.ndarray:
    """Return the best accuracy within each budget so far, after each evaluation.

    The shape is (results, budgets). The accuracy is 0 until a candidate meets the budget.
    """
    rows = [
        [
            result.accuracy if result.complete and violation <= 0.0 else 0.0
            for violation in costs.cautious_violations(result.architecture, result.exits)
        ]
        for result in results
    ]
    best: np.ndarray = np.maximum.accumulate(rows)
    return best


def needed(curve: list[float], target: float) -> int | None:
    """Return the number of evaluations after which a curve reaches `target`. None if it never does."""
    return next((number for number, value in enumerate(curve, 1) if value >= target), None)


def compare(searches: dict[str, list[dict[str, Any]]], seconds: float | None) -> dict[str, Any]:
    """Print and return a summary of all searches of each sampler.

    `seconds` is the time of one evaluation if recorded results were used. Otherwise, it is None. The target is the
    median over seeds of the baseline's final value. For each sampler, the summary states how many evaluations are
    needed to reach the target, as the median over seeds. If a search never reaches the target, the number of all its
    evaluations is used.
    """
    console, result = Console(), dict[str, Any]()
    for measure in ("hypervolume", "hypervolume_to_teacher", "within_budgets"):
        count = len(searches[BASELINE][0][measure])
        target = median(run[measure][-1] for run in searches[BASELINE])
        marks = [mark for mark in (25, 50, 75, 100, 150, 200, 300, 400) if mark <= count]
        columns = (*map(str, marks), "evaluations to reach the baseline's final value", "seeds that reach it", "s")
        table = common.table(f"{measure}, mean of {len(searches[BASELINE])} seeds", "", *columns)
        summary: dict[str, Any] = {"target": target, "curves": {}}
        for name, runs in searches.items():
            curve = np.mean([run[measure] for run in runs], axis=0)
            reached = [needed(run[measure], target) for run in runs]
            evaluations = median(number or count for number in reached)
            seconds_per_evaluation = fmean(run["seconds"] / count for run in runs) + (seconds or 0.0)
            reaching_seeds = sum(number is not None for number in reached)
            summary["curves"][name] = {
                "mean": curve.round(5).tolist(),
                "reached_after": reached,
                "seconds_per_evaluation": round(seconds_per_evaluation, 4),
            }
            summary[f"{name}_ratio"] = round(evaluations / count, 4)
            figures = (f"{curve[mark - 1]:.4f}" for mark in marks)
            table.add_row(
                name,
                *figures,
                f"{evaluations:g}",
                f"{reaching_seeds}/{len(runs)}",
                f"{evaluations * seconds_per_evaluation:.0f}",
            )
        console.print(table)
        result[measure] = summary
    return {"evaluations_ratio": result["hypervolume"].get("guided_ratio")} | result


def compare_recorded(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the samplers on recorded evaluations."""
    table = Recorded(arguments.table)
    print(
        f"{len(table.known)} recorded evaluations, {table.seconds:.2f} s each; noise of predicted evaluations at an "
        f"accuracy of 0.88: {table.noise * 0.12:.4f}"
    )

    def run_recorded(name: str, seed: int) -> dict[str, Any]:
        executor = TimingExecutor(table.evaluate)
        outcome = run_one(name, seed, arguments.evaluations, table.space, table.costs, executor)
        return outcome | {"seconds": outcome["seconds"] - executor.seconds}  # a real search does not ask the forest

    searches = {
        name: [run_recorded(name, seed) for seed in range(arguments.seeds)]
        for name in SAMPLERS
        if name in (BASELINE, *(arguments.only or SAMPLERS))
    }
    return compare(searches, table.seconds)


def compare_live(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the samplers with real evaluations on the search set of a run.

    With `--record`, also add these evaluations to the table of recorded evaluations.
    """
    costs, recipe = costs_of(run), evaluation(run)
    evaluator = recipe.load()
    full_evaluation = TimingExecutor(lambda architecture, _: evaluator.evaluate(architecture))
    searches = {
        name: [
            run_one(
                name,
                seed,
                arguments.evaluations,
                run.study.space,
                costs,
                full_evaluation if arguments.record else InlineExecutor(recipe),
            )
            for seed in range(arguments.seeds)
        ]
        for name in (arguments.only or SAMPLERS)
    }
    if arguments.record:
        record(
            arguments.table,
            run,
            [result for runs in searches.values() for found_run in runs for result in found_run["results"]],
        )
    return compare(searches, None) if BASELINE in searches else {}


def record(path: Path, run: Run, results: list[CandidateResult]) -> None:
    """Add the results of a run to the table of recorded evaluations."""
    space, profile = run.study.space, read_json(run.profile(run.study.devices[0].name), SearchError)
    rows = read_json(path, SearchError)["evaluations"] if path.exists() else []
    for result in results:
        integers = Encoding(space).encode(result.architecture)
        rows.append([*integers.values(), round(result.accuracy * result.examples), round(result.seconds, 2)])
    header = {
        "space": space.definition | {"name": space.name},
        "profile": profile | {"held_out": []},
        "budgets": [budget.model_dump(mode="json", exclude_none=True) for budget in run.study.budgets],
        "examples": results[0].examples,
    }
    values = header | {"evaluations": [list(row) for row in dict.fromkeys(map(tuple, rows))]}
    write_text(path, json.dumps(values) + "\n")


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=SAMPLERS)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--live", action="store_true", help="evaluate candidates on the run of --study")
    parser.add_argument("--record", action="store_true", help="with --live: add the evaluations to the file of --table")
    given = parser.parse_args()
    if given.live:
        common.main(given, compare_live)
    else:
        common.run_benchmark(given, compare_recorded)
