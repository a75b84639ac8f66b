"""Measure whether accuracy with inherited weights ranks sub-networks like accuracy after separate training.

The benchmark draws architectures of all sizes from the search space. It evaluates them on the search set with weights
inherited from the trained supernet. It compares this accuracy with two others:
  - the accuracy after fine-tuning each architecture separately, starting from the inherited weights (`kendall_tau`);
  - the accuracy after the same number of steps without a supernet, starting from slices of the ordered teacher
    (`kendall_tau_alone`).

The benchmark prints Kendall's tau with a 95 % interval from a bootstrap over architectures. The compared accuracies
come from the same texts, so they have the same sampling error, which increases the agreement. `kendall_tau_halves`
avoids this effect: it compares the accuracy with inherited weights on one half of the search set with the accuracy
after separate training on the other half. `kendall_tau_params` is a baseline, which ranks architectures by their number
of parameters.

If the supernet is not trained yet, the benchmark first trains it. Measurements are stored in <run>/rank_correlation/,
so that an interrupted benchmark can resume. The result is written to <run>/rank_correlation.json, and `nas report`
shows it.
"""

from __future__ import annotations

import argparse
import random
import shutil
from statistics import fmean
from typing import Any

import common
import numpy as np
from datasets import Dataset
from rich.console import Console
from scipy.stats import kendalltau

from nas.architecture import Architecture
from nas.errors import NasError
from nas.evaluate.accuracy import logits_of
from nas.files import digest, read_json, write_json
from nas.model import CompactBert
from nas.model.sizes import count_parameters
from nas.pipeline import Run, train
from nas.pipeline.data import metric_of, splits
from nas.pipeline.reports import RANKING_FILE
from nas.pipeline.supernets import distillation, load_ordered, supernet_inputs
from nas.progress import say
from nas.supernet import BertSupernet
from nas.supernet.loops import Schedule
from nas.tasks import Metric

RESAMPLES = 2_000


def tau(first: list[float], second: list[float]) -> float:
    """Return Kendall's tau-b, or 0 if one of the lists is constant."""
    return float(np.nan_to_num(kendalltau(first, second).statistic))


def interval(first: list[float], second: list[float]) -> tuple[float, float]:
    """Return a 95 % interval of tau from a bootstrap, in which pairs of values are drawn."""
    rng, pairs = np.random.default_rng(0), np.array([first, second])
    resamples = (pairs[:, rng.integers(0, pairs.shape[1], pairs.shape[1])] for _ in range(RESAMPLES))
    low, high = np.percentile([tau(*sample) for sample in resamples], [2.5, 97.5])
    return float(low), float(high)


def accuracies(model: CompactBert, split: Dataset, metric: Metric) -> dict[str, float]:
    """Return the score of a model on all rows of a split, on its even rows only, and on its odd rows only."""
    logits, labels = logits_of(model, split), np.asarray(split["labels"])
    parts = {"whole": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}
    return {name: metric.score(logits[rows], labels[rows]) for name, rows in parts.items()}


def compare(run: Run, architecture: Architecture, schedule: Schedule) -> dict[str, Any]:
    """Return the accuracies of an architecture with inherited weights and after two kinds of training.

    In the first kind, training starts from the inherited weights. In the second kind, it starts without a supernet.
    """
    folder, metric, search_set = run.folder / "rank_correlation" / "training", metric_of(run), splits(run).search
    record: dict[str, Any] = {"architecture": architecture.to_json(), "description": architecture.describe()}
    teacher = BertSupernet(load_ordered(run))
    for name, supernet in (("tuned", BertSupernet.load(run.supernet)), ("alone", teacher)):
        model = supernet.extract(architecture)
        if name == "tuned":
            record["params"] = count_parameters(model.config)
            record["inherited"] = accuracies(model, search_set, metric)
        shutil.rmtree(folder, ignore_errors=True)
        training = distillation(run, schedule, folder, {"architecture": architecture.to_json(), "start": name})
        training.train_subnetwork(model, f"{record['description']} {name}")
        record[name] = accuracies(model, search_set, metric)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the accuracies of all architectures, print a table, and return the rank correlations."""
    train(run)
    settings = run.study.export
    schedule = Schedule(
        settings.learning_rate, settings.batch_size, steps=arguments.steps, checkpoint_steps=arguments.steps
    )
    rng, count = random.Random(run.study.seed), arguments.architectures
    architectures = [run.study.space.sample(rng, (number + 0.5) / count) for number in range(count)]
    inputs = digest([supernet_inputs(run), run.study.digest("export"), arguments.steps])
    rows = []
    for number, architecture in enumerate(architectures, 1):
        file = run.folder / "rank_correlation" / f"{architecture.digest}-{inputs}.json"
        if not file.exists():
            say(f"architecture {number} of {count}: {architecture.describe()}")
            write_json(file, compare(run, architecture, schedule))
        rows.append(read_json(file, NasError))

    def column(name: str, part: str = "whole") -> list[float]:
        return [row[name][part] for row in rows]

    title = (
        f"{metric_of(run).label} on {len(splits(run).search):,} examples; {arguments.steps} steps of separate training"
    )
    names = ("inherited", "tuned", "alone")
    table = common.table(title, "architecture", *names)
    for row in sorted(rows, key=lambda row: float(row["inherited"]["whole"])):
        table.add_row(row["description"], *(f"{row[name]['whole']:.4f}" for name in names))
    Console().print(table)
    result: dict[str, Any] = {"architectures": count, "steps": arguments.steps}
    for name, key in (("tuned", ""), ("alone", "_alone")):
        value, bounds = tau(column("inherited"), column(name)), interval(column("inherited"), column(name))
        halves = fmean(tau(column("inherited", a), column(name, b)) for a, b in (("even", "odd"), ("odd", "even")))
        params = tau([float(row["params"]) for row in rows], column(name))
        print(
            f"Kendall's tau of `inherited` and `{name}`: {value:.2f} (95 % interval {bounds[0]:.2f} to "
            f"{bounds[1]:.2f}), across halves of the search set {halves:.2f}; of the number of parameters and "
            f"`{name}`: {params:.2f}"
        )
        values = {"kendall_tau": value, "low": bounds[0], "high": bounds[1]}
        values |= {"kendall_tau_halves": halves, "kendall_tau_params": params}
        result |= {f"{title}{key}": round(number, 4) for title, number in values.items()}
    report_rows = [{"description": row["description"], **{name: row[name]["whole"] for name in names}} for row in rows]
    write_json(run.folder / RANKING_FILE, result | {"supernet": supernet_inputs(run), "rows": report_rows})
    return result


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--steps", type=int, default=500, help="training steps per architecture")
    common.main(parser.parse_args(), measure)
