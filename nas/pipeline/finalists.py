"""The final training: trains the best candidates for all budgets (the finalists) together, but with separate weights.

All candidates share the supernet's weights. These weights are good enough to rank candidates, but not the best weights
for a single network. In the final training, each finalist therefore starts from a copy of the shared weights and
continues to learn from the teacher. The finalists of a budget compete, and some of them are dropped during training.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.budget import Floor
from nas.errors import ExportError
from nas.evaluate import Evaluator
from nas.evaluate.spread import SELECTION_BIAS
from nas.files import digest, read_json, write_folder, write_json
from nas.model import CompactBert
from nas.pipeline import division
from nas.pipeline.floors import floors_of_exports
from nas.pipeline.outputs import drop_outputs
from nas.pipeline.run import Run, once
from nas.pipeline.searches import evaluation, front
from nas.pipeline.sources import scale_version
from nas.pipeline.supernets import decided, distillation, supernet_inputs, supernet_steps, to_be_timed
from nas.pipeline.unlabelled import distilled_texts
from nas.pipeline.watching import watchers_of
from nas.progress import Stopwatch, busy, say
from nas.report.numbers import duration
from nas.search.selection import FLOOR_FACTOR
from nas.space import evenly_spaced
from nas.study import Study
from nas.supernet.cohort import Goal, Halving, expected_at_end, kept_of
from nas.supernet.loops import Schedule

_RESULT_VERSION = 2
"""Increase this when the final training yields different weights than before, so that older results are rebuilt."""
_RUNGS = (0.25, 0.5)
"""After each of these fractions of the steps, about half of each budget's finalists are dropped (see `Halving`)."""
_RESULT_FILE = "finalists.json"


@dataclass(frozen=True)
class Finalist:
    """The accuracies of a network before, during and after its training.

    An accuracy is the value of the study's metric on the search set.
    """

    inherited: float
    """The accuracy with the supernet's weights."""
    standard_error: float
    """The standard error of `inherited`."""
    accuracies: tuple[tuple[int, float], ...]
    """Pairs of a number of training steps and the accuracy after these steps: one pair for each rung that the network
    reached and, unless the network was dropped, one pair for the end of the training. A rung is a step at which the
    worse networks are dropped."""

    @property
    def is_gain(self) -> bool:
        """Whether the accuracy after training is at least `inherited_corrected`."""
        return self.accuracies[-1][1] >= self.inherited_corrected

    @property
    def inherited_corrected(self) -> float:
        """The accuracy with the supernet's weights, corrected for selection bias.

        The uncorrected accuracy is too high on average, because the network was selected for its high accuracy.
        """
        return self.inherited - SELECTION_BIAS * self.standard_error

    @property
    def corrected_accuracy(self) -> float:
        """The accuracy after training or `inherited_corrected`, whichever is higher."""
        return max([self.inherited_corrected, *(accuracy for _, accuracy in self.accuracies[-1:])])

    def expected(self, steps: int) -> float:
        """Estimate the `corrected_accuracy` after `steps` training steps.

        If the network was dropped earlier, its accuracy is extrapolated to this number of steps.
        """
        if not self.accuracies:
            return self.corrected_accuracy
        step, accuracy = self.accuracies[-1]
        return max(self.inherited_corrected, expected_at_end(self.inherited, accuracy, step / steps))

    @property
    def order(self) -> tuple[int, float]:
        """A key that sorts networks by length of training, longest first, and then by accuracy, highest first."""
        return (-len(self.accuracies), -self.accuracies[-1][1])


@dataclass(frozen=True)
class Contest:
    """Networks that compete for a budget while they are trained."""

    networks: Sequence[Architecture]
    floor: Floor | None = None
    """The accuracy floor: the cheapest network that reaches the floor wins. If None, the most accurate network wins."""
    costs: Sequence[float] = ()
    """The value of the metric `floor.minimise` for each network; empty if there is no floor."""

    def goal(self, numbers: Sequence[int], inherited: Sequence[float]) -> Goal | None:
        """Return the contest's accuracy floor and costs as a `Goal`; None if there is no floor.

        `numbers` are the indices of the contest's networks among all networks of the training run. `inherited` holds
        the accuracies of all networks before training.
        """
        if self.floor is None:
            return None
        inherited_by_number = {number: inherited[number] for number in numbers}
        return Goal(self.floor.minimum, inherited_by_number, dict(zip(numbers, self.costs, strict=True)))


@once
def finalists_inputs(run: Run) -> str:
    """Return the digest of everything that the final training depends on."""
    groups = {name: [each.digest for each in group] for name, group in finalists_of(run).items()}
    floors = {name: floor.minimum for name, floor in floors_of_exports(run).items()}
    return digest([groups, _origin(run), *([floors] if floors else [])])


def _origin(run: Run) -> dict[str, Any]:
    setting_names = {"finalists", "learning_rate", "batch_size"} | (set() if run.study.training.hours else {"epochs"})
    export_settings = run.study.export.model_dump(mode="json", include=setting_names)
    inputs = {"form": _RESULT_VERSION, "supernet": supernet_inputs(run), "export": export_settings}
    return inputs | evaluated_texts(run.study) | scale_version(run.study)


def evaluated_texts(study: Study) -> dict[str, int]:
    """Return the entry of digests for `search.least_tokens`, which selects the texts on which networks are evaluated.

    The result is empty if this setting has its default value, because digests of older runs do not contain the setting.
    """
    least_tokens = study.search.least_tokens
    return {"least_tokens": least_tokens} if least_tokens else {}


def finalists_of(run: Run) -> dict[str, list[Architecture]]:
    """Return the finalists of each budget, keyed by budget name.

    The finalists are the best `export.finalists` candidates among those that met the budget when they were measured. A
    budget with an accuracy floor has twice as many finalists, which are evenly spaced in the list of these candidates.
    """
    return {
        name: [Architecture.from_json(item["architecture"]) for item in items]
        for name, items in _finalist_entries(run).items()
    }


def _finalist_entries(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of `front.json` for the finalists of each budget, keyed by budget name."""
    count, floors = run.study.export.finalists, {budget.name for budget in run.study.budgets if budget.has_floor}
    met_by_budget = {
        name: [item for item in candidates if item["met"]] for name, candidates in front(run)["budgets"].items()
    }
    return {
        name: _evenly_spaced_items(candidates_met, FLOOR_FACTOR * count) if name in floors else candidates_met[:count]
        for name, candidates_met in met_by_budget.items()
    }


def _evenly_spaced_items(items: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return at most `count` evenly spaced items of a list, including its first and last items."""
    return [items[index] for index in evenly_spaced(min(count, len(items)), len(items))]


def make_finalists(run: Run, stopwatch: Stopwatch) -> None:
    """Train the finalists of all budgets together."""
    floors = floors_of_exports(run)
    costs = _costs(run, floors)
    contests = [
        Contest(group, floors.get(name), costs.get(name, ())) for name, group in finalists_of(run).items() if group
    ]
    train_together(run, run.finalists, contests, "The final training", stopwatch)


def _costs(run: Run, floors: Mapping[str, Floor]) -> dict[str, list[float]]:
    """Return the finalists' values of the metric to minimise, keyed by the name of each budget with an accuracy floor.

    An interrupted training keeps the values with which it was started, even if the step `front` has been run again
    since. The finalists are still the same in this case, since other finalists would change the inputs of the step.
    """
    if not floors:
        return {}
    metrics = {name: floor.minimise for name, floor in floors.items()}
    kept: dict[str, Any] = run.get_note("finalists", "costs") or {}
    if kept.get("metrics") == metrics and (run.finalists / "checkpoints").exists():
        return dict(kept["values"])
    entries = _finalist_entries(run)
    values = {name: [item[metric] for item in entries[name]] for name, metric in metrics.items()}
    run.add_note("finalists", costs={"metrics": metrics, "values": values})
    return values


def train_together(
    run: Run, folder: Path, contests: Sequence[Contest], title: str, stopwatch: Stopwatch | None = None
) -> None:
    """Train the networks of all contests together. At certain steps, each contest drops about half of its networks.

    If an earlier training was interrupted, resume it. Write the weights of each network to `folder/<digest>`, named by
    the digest of the architecture. If the study sets `training.hours` and a `stopwatch` is given, the number of steps
    depends on the time left on the stopwatch.
    """
    architectures = _distinct(contest.networks for contest in contests)
    evaluator = evaluator_of(run)
    say(f"{title}: the networks are trained and evaluated on {evaluator.processor}")
    settings = run.study.export
    networks = [evaluator.network(architecture) for architecture in architectures]
    started = time.monotonic()
    inherited = [evaluator.judged(network) for network in networks]
    seconds_per_evaluation = (time.monotonic() - started) / max(1, len(networks))
    if stopwatch is not None and networks and run.study.training.hours and decided(run, "finalists") is None:
        _decide_steps(run, stopwatch, contests, evaluator, seconds_per_evaluation)
    steps, watchers = training_steps(run), watchers_of(run)
    schedule = Schedule(settings.learning_rate, settings.batch_size, steps=steps, watchers=watchers)
    origin = _origin(run) | {
        "groups": [[architecture.digest for architecture in contest.networks] for contest in contests]
    }
    floors = [[contest.floor.minimum, list(contest.costs)] for contest in contests if contest.floor]
    origin |= {"floors": floors} if floors else {}
    origin |= {"steps": schedule.steps} if run.study.training.hours else {}
    groups = [[architectures.index(architecture) for architecture in contest.networks] for contest in contests]
    inherited_accuracies = [accuracy for accuracy, _ in inherited]
    goals = [contest.goal(numbers, inherited_accuracies) for contest, numbers in zip(contests, groups, strict=True)]
    halving = Halving.of(groups, schedule.steps, _RUNGS, goals)
    accuracies_at_rungs = []
    if networks:
        training = distillation(run, schedule, folder, origin)
        accuracies_at_rungs = training.train_cohort(networks, halving, evaluator.accuracy_of, title)
    outcomes = {}
    for number, (architecture, network) in enumerate(zip(architectures, networks, strict=True)):
        write_folder(folder / architecture.digest, network.save_pretrained)
        reached_accuracies = [
            (step, accuracies[number])
            for step, accuracies in zip((*halving.rungs, schedule.steps), accuracies_at_rungs, strict=True)
            if number in accuracies
        ]
        outcomes[architecture.digest] = asdict(Finalist(*inherited[number], tuple(reached_accuracies)))
    write_json(folder / _RESULT_FILE, outcomes)
    drop_outputs(run)


def _distinct(groups: Iterable[Sequence[Architecture]]) -> list[Architecture]:
    """Return the networks of all groups without repetition, in the order in which they first occur."""
    return list(dict.fromkeys(chain.from_iterable(groups)))


def evaluator_of(run: Run) -> Evaluator:
    """Return the evaluator of the search, but without the limit of `search.examples` texts."""
    return replace(evaluation(run), examples=None).load()


def _decide_steps(
    run: Run, stopwatch: Stopwatch, contests: Sequence[Contest], evaluator: Evaluator, seconds_per_evaluation: float
) -> None:
    """Decide how many steps the final training has, and record this number.

    The number depends on the time left, on the measured time per step, and on `seconds_per_evaluation`, the time to
    evaluate one network. The time per step is measured twice: with all networks, and with only one or two per contest.
    """
    counts = [(len(contest.networks), contest.floor is not None) for contest in contests]
    all_networks = _distinct(contest.networks for contest in contests)
    final_networks = _distinct(contest.networks[: 2 if contest.floor else 1] for contest in contests)
    with busy("Measuring the time per training step"):
        many = len(all_networks), _seconds_per_step(run, evaluator, all_networks)
        few = (
            (len(final_networks), _seconds_per_step(run, evaluator, final_networks))
            if len(final_networks) < len(all_networks)
            else many
        )
    stopwatch.end("timing")
    trained_counts = [len(all_networks)]
    for _ in _RUNGS:
        counts = [(kept_of(count, has_floor), has_floor) for count, has_floor in counts]
        trained_counts.append(min(len(all_networks), sum(count for count, _ in counts)))
    seconds_per_step = division.mean_step(_RUNGS, trained_counts, few, many)
    steps = division.training_steps(stopwatch.left - seconds_per_evaluation * sum(trained_counts), seconds_per_step)
    run.add_note("finalists", steps=steps)
    say(
        f"The final training: {steps:,} steps of about {seconds_per_step:.2f} s each "
        f"(time left for training and evaluation: {duration(max(0.0, stopwatch.left))})"
    )


def _seconds_per_step(run: Run, evaluator: Evaluator, architectures: Sequence[Architecture]) -> float:
    with to_be_timed(run, run.study.export) as training:
        return training.time_cohort([evaluator.network(each) for each in architectures], division.WARM_UP_STEPS)


def training_steps(run: Run) -> int:
    """Return the number of steps of the final training.

    If the study does not set `training.hours`, the number follows from the study's settings. Otherwise, the number is
    chosen to fit the time left when the final training starts. If no number has been chosen, for example because only a
    single candidate is exported, return the number of steps of the supernet's training.
    """
    if run.study.training.hours:
        return decided(run, "finalists") or supernet_steps(run)
    return run.study.final_steps(len(distilled_texts(run)))


def trained(folder: Path) -> dict[str, Finalist]:
    """Return the accuracies of the networks that `train_together` wrote to `folder`, keyed by architecture digest."""
    outcomes = read_json(folder / _RESULT_FILE, ExportError)
    return {
        name: Finalist(
            outcome["inherited"],
            outcome["standard_error"],
            tuple((step, value) for step, value in outcome["accuracies"]),
        )
        for name, outcome in outcomes.items()
    }


def load_trained(folder: Path, architecture: Architecture) -> CompactBert:
    """Load a network with the weights that `train_together` wrote to `folder`."""
    return CompactBert.from_pretrained(folder / architecture.digest).eval()
