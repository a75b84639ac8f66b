"""The final training: the best candidates of all budgets, each trained by itself, side by side.

The supernet's weights rank candidates well, but they are not the best that a network can have, since they are shared.
So the finalists of every budget go on learning from the teacher, without sharing. Those of a budget compete: the less
accurate ones are dropped on the way.
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
from nas.evaluate.spread import FLATTERED
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
from nas.progress import Laps, busy, say
from nas.search.selection import WIDER
from nas.space import evenly_spaced
from nas.supernet.cohort import Goal, Halving, expected_at_end, kept_of
from nas.supernet.loops import Schedule

_FORM = 2
"""To be raised when a network holds other weights after its training than before, so that older ones are rebuilt."""
_RUNGS = (0.25, 0.5)
"""After these shares of the steps the less accurate half of each budget's finalists is dropped."""
_RESULT = "finalists.json"


@dataclass(frozen=True)
class Finalist:
    """What the training of a network came to. Accuracies are those of the study's metric on the search set."""

    inherited: float
    """With the supernet's weights."""
    standard_error: float
    """Of `inherited`, by resampling the texts."""
    accuracies: tuple[tuple[int, float], ...]
    """Steps and the accuracy after them, at each rung that the network reached and, if it was not dropped, at the
    end."""

    @property
    def is_gain(self) -> bool:
        """Whether the training was worth it."""
        return self.accuracies[-1][1] >= self.inherited_less_luck

    @property
    def inherited_less_luck(self) -> float:
        """The accuracy before the training as it would be if the network had not been chosen by it."""
        return self.inherited - FLATTERED * self.standard_error

    @property
    def assured(self) -> float:
        """The accuracy that counts of the better weights, trained or inherited."""
        return max([self.inherited_less_luck, *(accuracy for _, accuracy in self.accuracies[-1:])])

    def expected(self, steps: int) -> float:
        """The same as it is expected after so many steps, where the network was dropped before."""
        if not self.accuracies:
            return self.assured
        step, accuracy = self.accuracies[-1]
        return max(self.inherited_less_luck, expected_at_end(self.inherited, accuracy, step / steps))

    @property
    def order(self) -> tuple[int, float]:
        """What comes first is better: who was trained longer, and then who is more accurate."""
        return (-len(self.accuracies), -self.accuracies[-1][1])


@dataclass(frozen=True)
class Contest:
    """Networks that compete for a budget in a training."""

    networks: Sequence[Architecture]
    floor: Floor | None = None
    """What accuracy shall be kept at the least cost; the most accurate network wins without one."""
    costs: Sequence[float] = ()
    """What each network costs, where there is a floor."""

    def goal(self, numbers: Sequence[int], inherited: Sequence[float]) -> Goal | None:
        """The goal of the networks of these numbers, by the accuracies of all networks before the training."""
        if self.floor is None:
            return None
        known = {number: inherited[number] for number in numbers}
        return Goal(self.floor.least, known, dict(zip(numbers, self.costs, strict=True)))


@once
def finalists_inputs(run: Run) -> str:
    """What the final training is made from."""
    groups = {name: [each.digest for each in group] for name, group in finalists_of(run).items()}
    floors = {name: floor.least for name, floor in floors_of_exports(run).items()}
    return digest([groups, _origin(run), *([floors] if floors else [])])


def _origin(run: Run) -> dict[str, Any]:
    names = {"finalists", "learning_rate", "batch_size"} | (set() if run.study.training.hours else {"epochs"})
    trained = run.study.export.model_dump(mode="json", include=names)
    least = run.study.search.least_tokens  # which texts judge; older runs without such a limit do not know it
    judged = {"least_tokens": least} if least else {}
    return {"form": _FORM, "supernet": supernet_inputs(run), "export": trained} | judged


def finalists_of(run: Run) -> dict[str, list[Architecture]]:
    """Of each budget's candidates that are measured to meet it the best, at most `export.finalists`.

    Which is best the search's objective tells. Of a budget with a floor there are twice as many, evenly from the most
    to the least accurate.
    """
    return {
        name: [Architecture.from_json(item["architecture"]) for item in items] for name, items in _chosen(run).items()
    }


def _chosen(run: Run) -> dict[str, list[dict[str, Any]]]:
    """What was measured of the finalists."""
    count, floors = run.study.export.finalists, {budget.name for budget in run.study.budgets if budget.has_floor}
    met = {name: [item for item in found if item["met"]] for name, found in front(run)["budgets"].items()}
    return {name: _evenly(items, WIDER * count) if name in floors else items[:count] for name, items in met.items()}


def _evenly(items: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many items of a list, evenly and with both ends."""
    return [items[place] for place in evenly_spaced(min(most, len(items)), len(items))]


def make_finalists(run: Run, laps: Laps) -> None:
    """Train the finalists of all budgets together."""
    floors, chosen = floors_of_exports(run), _chosen(run)
    contests = [
        Contest(group, floor := floors.get(name), [item[floor.minimise] for item in chosen[name]] if floor else ())
        for name, group in finalists_of(run).items()
        if group
    ]
    train_together(run, run.finalists, contests, "The final training", laps)


def train_together(run: Run, folder: Path, contests: Sequence[Contest], title: str, laps: Laps | None = None) -> None:
    """Train the networks of some contests, each of which keeps the better half; goes on after an interruption.

    Weights are written to `folder`, a Hugging Face folder for each network, named by its architecture's digest. With
    the laps of the final training, what they leave of a study's hours decides how many steps it has.
    """
    architectures = list(dict.fromkeys(chain.from_iterable(contest.networks for contest in contests)))
    evaluator = judge_of(run)
    say(f"{title}: networks are trained and judged on {evaluator.processor}")
    settings = run.study.export
    networks = [evaluator.network(architecture) for architecture in architectures]
    started = time.monotonic()
    inherited = [evaluator.judged(network) for network in networks]
    judging = (time.monotonic() - started) / max(1, len(networks))
    if laps is not None and networks and run.study.training.hours and decided(run, "finalists") is None:
        _decide(run, laps, contests, evaluator, judging)
    steps, watchers = training_steps(run), watchers_of(run)
    schedule = Schedule(settings.learning_rate, settings.batch_size, steps=steps, watchers=watchers)
    origin = _origin(run) | {"groups": [[each.digest for each in contest.networks] for contest in contests]}
    floors = [[contest.floor.least, list(contest.costs)] for contest in contests if contest.floor]
    origin |= {"floors": floors} if floors else {}
    origin |= {"steps": schedule.steps} if run.study.training.hours else {}
    groups = [[architectures.index(each) for each in contest.networks] for contest in contests]
    before = [accuracy for accuracy, _ in inherited]
    goals = [contest.goal(numbers, before) for contest, numbers in zip(contests, groups, strict=True)]
    halving = Halving.of(groups, schedule.steps, _RUNGS, goals)
    told = []
    if networks:
        training = distillation(run, splits(run), schedule, folder, origin)
        told = training.train_cohort(networks, halving, evaluator.accuracy_of, title)
    found = {}
    for number, (architecture, network) in enumerate(zip(architectures, networks, strict=True)):
        write_folder(folder / architecture.digest, network.save_pretrained)
        reached = [
            (step, at[number]) for step, at in zip((*halving.rungs, schedule.steps), told, strict=True) if number in at
        ]
        found[architecture.digest] = asdict(Finalist(*inherited[number], tuple(reached)))
    write_json(folder / _RESULT, found)
    drop_outputs(run)


def judge_of(run: Run) -> Evaluator:
    """What judges networks by all texts of the search set that candidates are judged by some of."""
    return replace(evaluation(run), examples=None).load()


def _decide(run: Run, laps: Laps, contests: Sequence[Contest], evaluator: Evaluator, judging: float) -> None:
    """Note how many steps the final training has, by what is left and the speed with all networks and with few.

    `judging` is how long it takes to judge one of them.
    """
    counts = [(len(contest.networks), contest.floor is not None) for contest in contests]
    every = list(dict.fromkeys(chain.from_iterable(contest.networks for contest in contests)))
    last = (contest.networks[: 2 if contest.floor else 1] for contest in contests)
    first = list(dict.fromkeys(chain.from_iterable(last)))
    with busy("Timing a few steps"):
        many = len(every), _seconds_per_step(run, evaluator, every)
        few = (len(first), _seconds_per_step(run, evaluator, first)) if len(first) < len(every) else many
    laps.end("timing")
    trained = [len(every)]
    for _ in _RUNGS:
        counts = [(kept_of(count, has_floor), has_floor) for count, has_floor in counts]
        trained.append(min(len(every), sum(count for count, _ in counts)))
    step = division.mean_step(_RUNGS, trained, few, many)
    steps = division.training_steps(laps.left - judging * sum(trained), step)
    run.note("finalists", steps=steps)
    left = max(0.0, laps.left) / 60
    say(f"The final training: {steps:,} steps of {step:.2f} s, of the {left:.0f} minutes that are left")


def _seconds_per_step(run: Run, evaluator: Evaluator, architectures: Sequence[Architecture]) -> float:
    settings = run.study.export
    with to_be_timed(run, settings.learning_rate, settings.batch_size) as training:
        return training.time_cohort([evaluator.network(each) for each in architectures], division.WARM_UP_STEPS)


def training_steps(run: Run) -> int:
    """The steps of the final training: as the study says, or with hours as was decided.

    A network that is trained alone, before there were finalists, is trained as long as the supernet.
    """
    if run.study.training.hours:
        return decided(run, "finalists") or supernet_steps(run)
    return run.study.final_steps(len(distilled_texts(run, splits(run))))


def trained(folder: Path) -> dict[str, Finalist]:
    """The networks that were trained in a folder, by the digest of their architecture."""
    values = read_json(folder / _RESULT, ExportError)
    return {
        name: Finalist(
            one["inherited"], one["standard_error"], tuple((step, value) for step, value in one["accuracies"])
        )
        for name, one in values.items()
    }


def load_trained(folder: Path, architecture: Architecture) -> CompactBert:
    """A network with the weights that it was trained to."""
    return CompactBert.from_pretrained(folder / architecture.digest).eval()
