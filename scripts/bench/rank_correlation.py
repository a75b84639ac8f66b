"""Does accuracy with inherited weights rank sub-networks as training each of them alone would?

Draws architectures from the smallest to the largest of the space and compares, on the search set, the accuracy with
the weights inherited from the trained supernet with
  - the accuracy after fine-tuning each alone, from these same weights (`kendall_tau`), and
  - the accuracy after training each alone from slices of the ordered teacher, without a supernet (`kendall_tau_alone`).
Prints Kendall's tau with a 95 % interval from a bootstrap over architectures. Trains the supernet if it is missing.
Goes on after an interruption: what is measured lies in <run>/rank_correlation/.
"""

from __future__ import annotations

import random
import shutil
from typing import Any

import common
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from nas.data import TaskData
from nas.errors import NasError
from nas.evaluate.accuracy import Evaluator
from nas.files import digest, read_json, write_json
from nas.model import CompactBertForSequenceClassification
from nas.pipeline import Run, train
from nas.pipeline.supernets import distillation, load_supernet, supernet_inputs
from nas.progress import say
from nas.space import Architecture
from nas.supernet import BertSupernet
from nas.supernet.loops import Schedule

RESAMPLES = 10_000


def tau(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Kendall's tau-b and the ends of its 95 % bootstrap interval."""
    rng, pairs = np.random.default_rng(0), np.array([first, second])
    drawn = (rng.integers(0, pairs.shape[1], pairs.shape[1]) for _ in range(RESAMPLES))
    low, high = np.nanpercentile([kendalltau(*pairs[:, rows]).statistic for rows in drawn], [2.5, 97.5])
    return float(kendalltau(*pairs).statistic), float(low), float(high)


def measure(run: Run, data: TaskData, architecture: Architecture, schedule: Schedule) -> dict[str, Any]:
    """The three accuracies of one architecture."""
    folder = run.folder / "rank_correlation" / "training"
    found: dict[str, Any] = {"architecture": architecture.to_json(), "description": architecture.describe()}
    teacher = BertSupernet(CompactBertForSequenceClassification.from_pretrained(run.ordered_teacher))
    for name, supernet in (("tuned", load_supernet(run)), ("alone", teacher)):
        evaluator = Evaluator(supernet, data.search, run.study.task.metric)
        model = supernet.extract(architecture)
        if name == "tuned":
            found["inherited"] = evaluator.accuracy_of(model)
        shutil.rmtree(folder, ignore_errors=True)
        origin = {"architecture": architecture.to_json(), "start": name}
        distillation(run, data, schedule, folder, origin).train_subnetwork(model, found["description"])
        found[name] = evaluator.accuracy_of(model)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = common.parser(__doc__)
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--steps", type=int, default=500, help="of training each architecture alone")
    arguments = parser.parse_args()
    run = common.run_of(arguments)
    train(run)
    data, settings = TaskData.load(run.data), run.study.export
    schedule = Schedule(
        settings.learning_rate, settings.batch_size, steps=arguments.steps, checkpoint_steps=arguments.steps
    )
    rng, count = random.Random(run.study.seed), arguments.architectures
    architectures = [run.study.space.sample(rng, (number + 0.5) / count) for number in range(count)]
    folder, inputs = run.folder / "rank_correlation", digest([supernet_inputs(run), arguments.steps])
    rows = []
    for number, architecture in enumerate(architectures, 1):
        file = folder / f"{architecture.digest}-{inputs}.json"
        if not file.exists():
            say(f"architecture {number} of {count}: {architecture.describe()}")
            write_json(file, measure(run, data, architecture, schedule))
        rows.append(read_json(file, NasError))
    table = Table(title=f"{run.study.task.metric} on {len(data.search):,} examples; {arguments.steps} steps alone")
    for column in ("architecture", "inherited", "tuned", "alone"):
        table.add_column(column, justify="left" if column == "architecture" else "right")
    for row in sorted(rows, key=lambda row: float(row["inherited"])):
        table.add_row(row["description"], *(f"{row[name]:.4f}" for name in ("inherited", "tuned", "alone")))
    Console().print(table)
    result: dict[str, Any] = {"architectures": count, "steps": arguments.steps}
    for name, key in (("tuned", ""), ("alone", "_alone")):
        value, low, high = tau([row["inherited"] for row in rows], [row[name] for row in rows])
        print(f"inherited against {name}: Kendall tau {value:.2f} (95 % interval {low:.2f} to {high:.2f})")
        result |= {f"kendall_tau{key}": round(value, 4), f"low{key}": round(low, 4), f"high{key}": round(high, 4)}
    common.finish(arguments, result)


if __name__ == "__main__":
    main()
