"""Simulate a search with 1 to 1000 workers: candidates per second, utilisation of the workers, and accuracy found.

Only the workers are simulated. The driver (the process that runs the search) is real, and the simulated clock includes
its time. The simulation is based on a finished search of the study. Evaluation times are drawn from the times measured
in that search. A regression on sizes and compression methods predicts accuracies, to which noise as large as the
residuals is added.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import common
import numpy as np
from rich.console import Console
from simulation import Pool, SimulatedExecutor

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.evaluate import CandidateResult
from nas.files import write_text
from nas.pipeline import Run
from nas.pipeline.profiles import costs_of
from nas.report.svg import AxisScale, element, frame, path, picture, text
from nas.search import SearchState, search
from nas.search.costs import Costs
from nas.search.front import ranking

_RIDGE, _FOLDS = 1.0, 10
_CEILING = 0.95
_RACE_MARGIN = 0.02
"""A candidate is not evaluated on all texts if its accuracy is below the accuracy to beat by at least this margin."""


class Recorded:
    """A model that simulates evaluations. It is fitted to the recorded evaluations of a search."""

    def __init__(self, results: Sequence[CandidateResult]) -> None:
        rows = np.stack([_features(result.architecture) for result in results])
        gaps = np.asarray([_gap(result.accuracy) for result in results])
        self._weights = _fitted(rows, gaps)
        self._noise = float(np.std(gaps - rows @ self._weights))
        folds = np.arange(len(rows)) % _FOLDS
        folds_with_weights = [
            (folds == fold, _fitted(rows[folds != fold], gaps[folds != fold])) for fold in range(_FOLDS)
        ]
        errors = np.concatenate([gaps[in_fold] - rows[in_fold] @ weights for in_fold, weights in folds_with_weights])
        # If all accuracies are equal, there is no variance to explain.
        self.r_squared = float(1.0 - errors.var() / gaps.var()) if np.ptp(gaps) > 0.0 else 0.0
        self._seconds = {
            is_complete: [r.seconds for r in results if r.complete == is_complete] for is_complete in (True, False)
        }

    def evaluate(self, architecture: Architecture, to_beat: float) -> CandidateResult:
        """Return the simulated result of a candidate. Its accuracy depends only on the architecture."""
        rng = random.Random(architecture.digest)
        gap = float(_features(architecture) @ self._weights) + rng.gauss(0.0, self._noise)
        accuracy = _CEILING - math.exp(-gap)
        is_complete = accuracy > to_beat - _RACE_MARGIN
        seconds = rng.choice(self._seconds[is_complete] or self._seconds[not is_complete])
        return CandidateResult(architecture, accuracy, 1, seconds, complete=is_complete)

    @property
    def mean_s(self) -> float:
        """The mean time of the recorded evaluations, in seconds."""
        return fmean(self._seconds[True] + self._seconds[False])


def _gap(accuracy: float) -> float:
    """Return -log(`_CEILING` - accuracy). The regression predicts this value.

    Accuracies near or above the ceiling are treated as 0.001 below it.
    """
    return -math.log(max(_CEILING - accuracy, 1e-3))


def _features(architecture: Architecture) -> np.ndarray:
    """Return the features of an architecture: logarithms of sizes, and the numbers of float, int8 and other blocks."""
    features = dict.fromkeys(("one", "hidden", "layers", "first", "heads", "neurons", "float", "int8", "less"), 0.0)
    features |= {"one": 1.0, "hidden": np.log2(architecture.hidden_size), "layers": np.log2(len(architecture.layers))}
    features["first"] = float(architecture.layers[0].source == 0)
    for layer in architecture.resolved:
        for block, kind in zip(LAYER_BLOCKS, ("heads", "neurons"), strict=True):
            size, choice = layer.option(block)
            features[kind] += np.log2(1.0 + size)
            features["int8" if choice == "int8" else "float" if choice == "none" else "less"] += 1.0
    return np.asarray(list(features.values()))


def _fitted(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the weights of a ridge regression without a penalty on the intercept."""
    penalty = _RIDGE * np.eye(rows.shape[1])
    penalty[0, 0] = 0.0
    return np.linalg.solve(rows.T @ rows + penalty, rows.T @ values)


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Simulate all numbers of workers, print tables, and return the rates and the best accuracies."""
    costs = costs_of(run)
    recorded = Recorded(common.results_in(common.journal_of(run).read_bytes(), run, costs))

    def simulated(pool: Pool, evaluations: int, seed: int) -> tuple[dict[str, float], SearchState]:
        return _simulate(run, costs, recorded, pool, evaluations, seed)

    trouble = Pool(1, arguments.death, arguments.back, arguments.straggling)
    rates = {
        name: [simulated(replace(pool, workers=count), arguments.evaluations, 0)[0] for count in arguments.workers]
        for name, pool in (("no trouble", Pool(1)), ("trouble", trouble))
    }
    _show_rates(rates, recorded.mean_s, arguments.evaluations)
    if arguments.picture:
        write_text(arguments.picture, _picture(rates))
    quality: dict[int, list[list[float]]] = {}
    for count in arguments.workers if arguments.quality else ():
        results_of_seeds = [
            simulated(Pool(count), arguments.quality, seed)[1].results for seed in range(arguments.seeds)
        ]
        quality[count] = [_best(results, costs) for results in results_of_seeds]
    _show_quality(quality, arguments.quality, costs)
    return {
        "mean_evaluation_s": recorded.mean_s,
        "accuracy_r_squared": recorded.r_squared,
        "rates": rates,
        "quality": quality,
    }


def _simulate(
    run: Run, costs: Costs, recorded: Recorded, pool: Pool, evaluations: int, seed: int
) -> tuple[dict[str, float], SearchState]:
    """Simulate one search of the study with a pool of workers. Return its measurements and its final state."""
    executor = SimulatedExecutor(recorded.evaluate, pool, seed)
    with common.temporary_trials(run.study.space, costs, run.study.search, seed) as trials:
        state = search(trials, evaluations, lambda: executor)
    count = len(state.results)
    return {
        "workers": pool.workers,
        "candidates_per_second": count / executor.now_s,
        "utilisation": executor.busy_s / executor.now_s / pool.workers,
        "wall_clock_s": executor.now_s,
        "driver_ms": 1000.0 * executor.driver_s / count,
        "lost": executor.lost,
    }, state


def _best(results: Sequence[CandidateResult], costs: Costs) -> list[float]:
    """Return the accuracy of the best candidate for each budget, in the order of the budgets."""
    return [ranking(results, costs, budget, 0.0)[0].accuracy for budget in costs.budgets]


def _show_rates(rates: dict[str, list[dict[str, float]]], mean_s: float, evaluations: int) -> None:
    columns = ("", "workers", "candidates/s", "utilisation", "total s", "driver ms per candidate", "lost")
    table = common.table(f"{evaluations:,} evaluations of {mean_s:.2f} s on average, simulated", *columns)
    for name, items in rates.items():
        for item in items:
            rate, utilisation, total_s = item["candidates_per_second"], item["utilisation"], item["wall_clock_s"]
            figures = (
                f"{rate:.2f}",
                f"{utilisation:.1%}",
                f"{total_s:.0f}",
                f"{item['driver_ms']:.2f}",
                f"{item['lost']:.0f}",
            )
            table.add_row(name, f"{item['workers']:,}", *figures)
    Console().print(table)


def _show_quality(quality: dict[int, list[list[float]]], evaluations: int, costs: Costs) -> None:
    title = f"Best accuracy after {evaluations:,} evaluations, mean (and range) over seeds"
    table = common.table(title, "workers", *(budget.name for budget in costs.budgets))
    for workers, accuracies in quality.items():
        columns = zip(*accuracies, strict=True)
        texts = (f"{fmean(values):.4f} ({max(values) - min(values):.4f})" for values in columns)
        table.add_row(f"{workers:,}", *texts)
    Console().print(table)


_WIDTH, _HEIGHT, _MARGIN = 720.0, 400.0, 14.0
_COLOURS = ("candidate best", "export")


def _picture(rates: dict[str, list[dict[str, float]]]) -> str:
    """Draw a chart of candidates per second over the number of workers.

    A line shows the rate of workers that never wait.
    """
    all_items = [item for items in rates.values() for item in items]
    workers = [item["workers"] for item in all_items]
    ideal = [(item["workers"], item["candidates_per_second"] / item["utilisation"]) for item in rates["no trouble"]]
    (fewest, least), (most, best) = ideal[0], ideal[-1]
    x = AxisScale.around(workers, 66.0, 690.0, logarithmic=True)
    y = AxisScale.around([rate for _, rate in ideal], 346.0, 60.0, logarithmic=True)
    content = frame(x, y, "workers (log scale)", "candidates per second (log scale)")
    content += element("line", x1=x(fewest), y1=y(least), x2=x(most), y2=y(best), class_="equal")
    for items, class_ in zip(rates.values(), _COLOURS, strict=True):
        content += path([(x(item["workers"]), y(item["candidates_per_second"])) for item in items], "front")
        for item in items:
            position = x(item["workers"]), y(item["candidates_per_second"])
            content += element("circle", cx=position[0], cy=position[1], r=4.5, class_=class_)
    legend = zip(_COLOURS, rates, (80, 260), strict=True)
    for class_, name, position in legend:
        content += element("circle", cx=position, cy=34, r=4.5, class_=class_) + text(position + 12, 38, name, "label")
    content += element("line", x1=450, y1=34, x2=474, y2=34, class_="equal") + text(
        482, 38, "workers that never wait", "label"
    )
    chart = element("g", content, class_="chart", transform=f"translate({_MARGIN:g} {_MARGIN:g})")
    return picture(_WIDTH + 2 * _MARGIN, _HEIGHT + 2 * _MARGIN, "Candidates per second", chart)


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 30, 100, 300, 1000])
    parser.add_argument("--evaluations", type=int, default=1000, help="evaluations per simulated search")
    parser.add_argument("--death", type=float, default=0.002, help="probability that an evaluation kills its worker")
    parser.add_argument("--back", type=float, default=30.0, help="seconds until a dead worker is replaced")
    parser.add_argument(
        "--straggling", type=float, default=0.02, help="probability that an evaluation takes unusually long"
    )
    parser.add_argument(
        "--quality", type=int, default=800, help="evaluations per search in the comparison of accuracies"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of searches in the comparison of accuracies")
    parser.add_argument("--picture", type=Path, help="path of an SVG file to which the chart of rates is written")
    common.main(parser.parse_args(), measure)
