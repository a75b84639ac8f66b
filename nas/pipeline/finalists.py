"""The final training: the best candidates of all budgets are trained together, but each with its own weights.

The supernet's weights rank candidates well, but they are not the best weights for a single network, since all
candidates share them. So the finalists of every budget continue to learn from the teacher without sharing weights. The
finalists of a budget compete, and the less accurate ones are dropped during this training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from nas.pipeline.prepare import splits
from nas.pipeline.run import Run, once
from nas.pipeline.searches import evaluation, front
from nas.pipeline.supernets import decided, distillation, supernet_inputs, supernet_steps, to_be_timed
from nas.pipeline.unlabelled import distilled_texts
from nas.pipeline.watching import watchers_of
from nas.progress import Stopwatch, busy, say
from nas.search.selection import FLOOR_FACTOR
from nas.space import evenly_spaced
from nas.supernet.cohort import Goal, Halving, expected_at_end, kept_of
from nas.supernet.loops import Schedule

_RESULT_VERSION = 2
"""Increase this when the final training yields different weights than before, so that older results are rebuilt."""
_RUNGS = (0.25, 0.5)
"""After each of these shares of the steps, the less accurate half of each budget's finalists is dropped."""
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
    """Pairs of a number of training steps and the accuracy after them. There is a pair for each rung that the network
    reached and, unless it was dropped, one for the end of the training."""

    @property
    def is_gain(self) -> bool:
        """Whether the trained weights are at least as accurate as the supernet's, corrected for selection bias."""
        return self.accuracies[-1][1] >= self.inherited_corrected

    @property
    def inherited_corrected(self) -> float:
        """The accuracy with the supernet's weights, corrected for selection bias.

        Without the correction, the accuracy would be too high, because the network was selected by it.
        """
        return self.inherited - SELECTION_BIAS * self.standard_error

    @property
    def corrected_accuracy(self) -> float:
        """The accuracy of the trained weights, or `inherited_corrected` if the latter is higher."""
        return max([self.inherited_corrected, *(accuracy for _, accuracy in self.accuracies[-1:])])

    def expected(self, steps: int) -> float:
        """Return the `corrected_accuracy` that is expected after `steps` training steps.

        If the network was dropped before that step, its accuracy is extrapolated.
        """
        if not self.accuracies:
            return self.corrected_accuracy
        step, accuracy = self.accuracies[-1]
        return max(self.inherited_corrected, expected_at_end(self.inherited, accuracy, step / steps))

    @property
    def order(self) -> tuple[int, float]:
        """A key that sorts networks by the length of their training, then by accuracy, both in descending order."""
        return (-len(self.accuracies), -self.accuracies[-1][1])


@dataclass(frozen=True)
class Contest:
    """Networks that compete for a budget while they are trained."""

    networks: Sequence[Architecture]
    floor: Floor | None = None
    """The accuracy to reach at the least cost. If None, the most accurate network wins."""
    costs: Sequence[float] = ()
    """The cost of each network; empty without a floor."""

    def goal(self, numbers: Sequence[int], inherited: Sequence[float]) -> Goal | None:
        """Return the contest's accuracy floor and costs as a `Goal`; None without a floor.

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
    # `search.least_tokens` decides on which texts networks are evaluated. Digests of older runs do not contain it.
    least_tokens = run.study.search.least_tokens
    search_settings = {"least_tokens": least_tokens} if least_tokens else {}
    return {"form": _RESULT_VERSION, "supernet": supernet_inputs(run), "export": export_settings} | search_settings


def finalists_of(run: Run) -> dict[str, list[Architecture]]:
    """Return up to `export.finalists` candidates for each budget: the best ones that were measured to meet the budget.

    The keys are the budget names. Candidates are ranked by the search's objective. A budget with an accuracy floor has
    up to twice as many finalists, spread evenly over its candidates from the most to the least accurate one.
    """
    return {
        name: [Architecture.from_json(item["architecture"]) for item in items]
        for name, items in _finalist_entries(run).items()
    }


def _finalist_entries(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of `front.json` that describe the finalists of each budget, keyed by budget name."""
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
    floors, entries_by_budget = floors_of_exports(run), _finalist_entries(run)
    contests = [
        Contest(
            group,
            floor := floors.get(name),
            [item[floor.minimise] for item in entries_by_budget[name]] if floor else (),
        )
        for name, group in finalists_of(run).items()
        if group
    ]
    train_together(run, run.finalists, contests, "The final training", stopwatch)


def train_together(
    run: Run, folder: Path, contests: Sequence[Contest], title: str, stopwatch: Stopwatch | None = None
) -> None:
    """Train the networks of all contests together. Each contest drops the worse half of its networks at certain steps.

    An interrupted training is resumed. The weights of each network are written to a Hugging Face folder in `folder`,
    named by the digest of the architecture. If the study sets `training.hours` and a `stopwatch` is given, the number
    of steps depends on the time left on the stopwatch.
    """
    architectures = list(dict.fromkeys(chain.from_iterable(contest.networks for contest in contests)))
    evaluator = evaluator_of(run)
    say(f"{title}: networks are trained and evaluated on {evaluator.processor}")
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
        training = distillation(run, splits(run), schedule, folder, origin)
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


def evaluator_of(run: Run) -> Evaluator:
    """Return an evaluator like the search's, but without the limit of `search.examples` texts."""
    return replace(evaluation(run), examples=None).load()


def _decide_steps(
    run: Run, stopwatch: Stopwatch, contests: Sequence[Contest], evaluator: Evaluator, seconds_per_evaluation: float
) -> None:
    """Decide how many steps the final training has, and record the number.

    The number depends on the time left, on the measured time per step (with all networks, and with only one or two per
    contest), and on `seconds_per_evaluation`, the seconds that it takes to evaluate one network.
    """
    counts = [(len(contest.networks), contest.floor is not None) for contest in contests]
    all_networks = list(dict.fromkeys(chain.from_iterable(contest.networks for contest in contests)))
    final_groups = (contest.networks[: 2 if contest.floor else 1] for contest in contests)
    final_networks = list(dict.fromkeys(chain.from_iterable(final_groups)))
    with busy("Timing a few steps"):
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
    minutes_left = max(0.0, stopwatch.left) / 60
    say(
        f"The final training: {steps:,} steps of {seconds_per_step:.2f} s each, in the remaining {minutes_left:.0f} "
        "minutes"
    )


def _seconds_per_step(run: Run, evaluator: Evaluator, architectures: Sequence[Architecture]) -> float:
    settings = run.study.export
    with to_be_timed(run, settings.learning_rate, settings.batch_size) as training:
        return training.time_cohort([evaluator.network(each) for each in architectures], division.WARM_UP_STEPS)


def training_steps(run: Run) -> int:
    """Return the number of steps of the final training.

    Without `training.hours`, this number follows from the study's settings. With `training.hours`, it is decided when
    the final training starts, from the time that is left then. If there is no final training in this case, for example
    because only a single candidate is exported, the supernet's number of steps is used.
    """
    if run.study.training.hours:
        return decided(run, "finalists") or supernet_steps(run)
    return run.study.final_steps(len(distilled_texts(run, splits(run))))


def trained(folder: Path) -> dict[str, Finalist]:
    """Return the outcome for each network that was trained in a folder, keyed by the digest of its architecture."""
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
    """Load a network with the weights that a training run wrote to `folder`."""
    return CompactBert.from_pretrained(folder / architecture.digest).eval()
