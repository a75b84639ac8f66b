"""Compare `nas run` with networks that are designed by hand and trained for the same time.

For each budget, networks that a person would choose are cut from the teacher, whose units are ordered by importance.
Each network is trained separately, with the distillation of `nas run`. The training takes as long as `nas run` took
after the data and the teacher were prepared. The networks are:
  - `uniform`: the network of equal layers that is the most accurate with the supernet's weights;
  - `N layers`: for each number of evenly spaced layers, the widest network that meets the budget, in int8 if possible;
  - `narrowed`: the uniform network, cut from a network with twice as many heads and neurons. The wide network is
    trained for the first third of the time.

These networks are compared with two others:
  - `nas run`: the export;
  - `same, alone`: the exported architecture, trained separately for the same time.

The benchmark times the training steps of each network, to find how many steps the time allows. The networks of a budget
are then trained in one process, so that they share the teacher's forward pass. This does not change their results. All
of them are trained for the number of steps that the time allows for the fastest network. Accuracies are measured on the
search set and on the test set.

Each seed has a separate folder in the folder --runs. The benchmark can resume after an interruption.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import common
from rich.console import Console

from nas.architecture import Architecture, Layer
from nas.budget import Budget
from nas.errors import NasError, counted
from nas.evaluate import Evaluator
from nas.files import digest, read_json, write_json
from nas.model import CompactBert
from nas.pipeline import Run, export
from nas.pipeline.data import metric_of, splits
from nas.pipeline.exports import verification
from nas.pipeline.finalists import evaluator_of
from nas.pipeline.profiles import costs_of
from nas.pipeline.searches import front
from nas.pipeline.supernets import distillation, load_ordered
from nas.search.uniform import uniform_networks
from nas.space import SearchSpace
from nas.supernet import BertSupernet
from nas.supernet.cohort import Halving
from nas.supernet.loops import Schedule

_UNCOUNTED_STEPS = ("embedded", "data", "teacher")
_WARM_UP_STEPS, _TIMED_STEPS = 10, 40
"""The number of steps before the timing starts, and the number of steps that are timed."""
_SHARE_OF_WIDE = 1 / 3


def by_hand(run: Run, budget: Budget) -> dict[str, Architecture]:
    """Return the networks that a person would choose for a budget, keyed by name."""
    space, best = run.study.space, front(run)["uniform"][budget.name]
    networks = {"uniform": Architecture.from_json(best["architecture"])} if best else {}
    full_width = {
        f"{len(network.layers)} layers": network
        for network in uniform_networks(space, costs_of(run), budget)
        if network.hidden_size == space.teacher.hidden_size
    }
    return networks | full_width


def wider(space: SearchSpace, architecture: Architecture) -> Architecture:
    """Return an uncompressed network from which `architecture` can be cut, with twice as many heads and neurons.

    A layer has at most as many heads and neurons as a layer of the teacher. The hidden size is that of `architecture`,
    because only a network that is cut from the teacher gets the linear maps that compensate for dropped hidden units.
    """
    most = space.teacher
    layers = tuple(
        Layer(
            each.source,
            min(2 * each.num_attention_heads, most.num_attention_heads),
            min(2 * each.intermediate_size, most.intermediate_size),
        )
        for each in architecture.layers
    )
    return Architecture(architecture.hidden_size, layers)


class SeparateTraining:
    """Trains separate networks without a supernet.

    The networks start from the weights of the teacher, whose units are ordered by importance.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.settings = run.study.export
        self.teacher = BertSupernet(load_ordered(run))
        self.judge: Evaluator = evaluator_of(run)

    def seconds_per_step(self, architecture: Architecture) -> float:
        """Return the seconds per training step if only this network is trained."""
        ends = []
        for steps in (_WARM_UP_STEPS, _WARM_UP_STEPS + _TIMED_STEPS):
            folder = self.folder / "timing"
            shutil.rmtree(folder, ignore_errors=True)
            started = time.perf_counter()
            self.train([self.teacher.extract(architecture)], steps, folder, "Timing steps")
            ends.append(time.perf_counter() - started)
        shutil.rmtree(self.folder / "timing", ignore_errors=True)
        return (ends[1] - ends[0]) / _TIMED_STEPS

    def timed(self, chosen: Mapping[str, Architecture]) -> dict[str, float]:
        """Return the seconds per training step of each network, keyed by name.

        The times are measured only once and are then read from a file, because they determine the number of steps.
        """
        file = self.folder / "seconds_per_step.json"
        if not file.exists():
            write_json(file, {name: self.seconds_per_step(architecture) for name, architecture in chosen.items()})
        seconds: dict[str, float] = read_json(file, NasError)
        return seconds

    def train(self, networks: Sequence[CompactBert], steps: int, folder: Path, title: str) -> None:
        """Train networks in place. After an interruption, the training resumes from its checkpoint."""
        schedule = Schedule(self.settings.learning_rate, self.settings.batch_size, steps=steps)
        origin = {"steps": steps, "networks": [network.config.architecture.digest for network in networks]}
        training = distillation(self.run, schedule, folder, origin)
        training.train_cohort(networks, Halving.never(len(networks)), self.judge.accuracy_of, title)

    def narrowed(self, architecture: Architecture, steps: int) -> CompactBert:
        """Train the network `wider`, cut the network `architecture` from it, and train this network."""
        wide_steps = round(_SHARE_OF_WIDE * steps)
        wide = self.teacher.extract(wider(self.run.study.space, architecture))
        self.train([wide], wide_steps, self.folder / "wide", "Training the wide network")
        network = BertSupernet(wide).extract(architecture)
        self.train([network], steps - wide_steps, self.folder / "narrowed", "Training the narrowed network")
        return network


def compare(run: Run, budget: Budget, seconds: float, folder: Path, narrowed: bool) -> dict[str, Any]:
    """Train the networks for a budget. Return the number of steps and the search and test accuracies of each network.

    All networks are trained for as many steps as the fastest network completes in `seconds` seconds. Checkpoints are
    kept in `folder`. An interrupted comparison resumes from them.
    """
    exported = verification(run, budget.name)
    chosen = by_hand(run, budget) | {"same, alone": Architecture.from_json(exported["architecture"])}
    separate = SeparateTraining(run, folder)
    seconds_per_step = separate.timed(chosen)
    steps = round(seconds / min(seconds_per_step.values()))
    networks = {name: separate.teacher.extract(architecture) for name, architecture in chosen.items()}
    separate.train([*networks.values()], steps, separate.folder / "together", f"Networks for {budget.name}")
    if narrowed and "uniform" in chosen:
        networks["narrowed"] = separate.narrowed(chosen["uniform"], steps)
    test = Evaluator(separate.teacher, splits(run).test, metric_of(run), bf16=False)
    results = {
        name: {
            "architecture": network.config.architecture.describe(),
            "search": separate.judge.accuracy_of(network),
            "test": test.accuracy_of(network),
            "steps": steps,
            "seconds_per_step": seconds_per_step.get(name),
        }
        for name, network in networks.items()
    }
    exported_result = {
        "architecture": exported["description"],
        "search": exported["search_accuracy"],
        "test": exported["accuracy"],
    }
    return results | {"nas run": exported_result}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the networks for all seeds and budgets, print a table per budget, and return all accuracies."""
    study = common.study_of(arguments)
    rows_of_budget: dict[str, dict[str, list[Any]]] = {}
    narrowed = not arguments.no_narrowed
    for seed in arguments.seeds:
        run = Run.of(study.model_copy(update={"seed": seed}), arguments.runs / f"seed-{seed}")
        with run.locked():
            export(run)
            step_seconds = {
                step: arguments.share * seconds
                for step, seconds in run.seconds().items()
                if step not in _UNCOUNTED_STEPS
            }
            for budget in run.study.budgets:
                if arguments.budgets and budget.name not in arguments.budgets:
                    continue
                inputs_digest = digest([step_seconds, arguments.no_narrowed, verification(run, budget.name)])
                folder = run.folder / "equal_training" / f"{budget.name}-{inputs_digest}"
                file = folder.with_name(f"{folder.name}.json")
                if not file.exists():
                    write_json(file, compare(run, budget, sum(step_seconds.values()), folder, narrowed))
                    shutil.rmtree(folder)
                for name, row in read_json(file, NasError).items():
                    rows_of_budget.setdefault(budget.name, {}).setdefault(name, []).append(row)
    for budget_name, rows in rows_of_budget.items():
        title = f"{study.name}, {budget_name}: {counted(len(arguments.seeds), 'seed')}"
        columns = ("", "search set", "test set", "steps", "architectures")
        table = common.table(title, *columns, left=("architectures",))
        for name, seed_rows in sorted(rows.items(), key=lambda item: -fmean(row["test"] for row in item[1])):
            figures = (_with_error([row[key] for row in seed_rows]) for key in ("search", "test"))
            steps = fmean(row["steps"] for row in seed_rows) if "steps" in seed_rows[0] else 0
            architectures = "; ".join(dict.fromkeys(row["architecture"] for row in seed_rows))
            table.add_row(name, *figures, f"{steps:.0f}" if steps else "", architectures)
        Console().print(table)
    return {"study": study.name, "seeds": arguments.seeds, "budgets": rows_of_budget}


def _with_error(values: Sequence[float]) -> str:
    """Return the mean in percent. If there are several seeds, add the standard error over seeds."""
    error = f" ± {100 * stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{error}"


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", nargs="+", default=[], metavar="NAME", help="only these budgets of the study")
    parser.add_argument("--share", type=float, default=1.0, help="training time as a share of that of `nas run`")
    parser.add_argument(
        "--no-narrowed", action="store_true", help="leave out `narrowed`, which needs a separate training run"
    )
    common.run_benchmark(parser.parse_args(), measure)
