"""The last steps of a study: for each budget, export the best network that meets it, and verify the exported files.

The best network is the most accurate one or, if the budget has an accuracy floor, the cheapest one that reaches the
floor. A user can also export a single candidate of the front. The teacher is exported and verified in the same way, as
a baseline for each device.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from nas.architecture import Architecture, compress_all
from nas.budget import TRIAL, Budget, Floor
from nas.compression import compression
from nas.data import truth_of
from nas.data.sample import SAMPLE_FILE
from nas.device import Device
from nas.errors import ExportError
from nas.evaluate import Evaluator
from nas.evaluate.accuracy import logits_of
from nas.export import verify, write_artefact
from nas.export.artefact import VERIFICATION_FILE
from nas.export.tokens import check_tokens
from nas.export.verification import Reference
from nas.files import digest, file_digest, read_json, write_json
from nas.model import CompactBert
from nas.model.tokenizer import load_tokenizer
from nas.pipeline.finalists import (
    Contest,
    Finalist,
    finalists_inputs,
    judge_of,
    load_trained,
    train_together,
    trained,
    training_steps,
)
from nas.pipeline.floors import floors_of_exports
from nas.pipeline.outputs import drop_outputs
from nas.pipeline.prepare import metric_of, served_as, splits, teacher_inputs
from nas.pipeline.profiles import device_of, fingerprint, measured_on, texts
from nas.pipeline.run import Run
from nas.pipeline.searches import front
from nas.pipeline.separate_teacher import about_separate_teacher
from nas.pipeline.snapshots import commits
from nas.pipeline.supernets import supernet_inputs
from nas.pipeline.teachers import load_teacher
from nas.pipeline.unlabelled import unlabelled_counts
from nas.progress import Stopwatch, say
from nas.report.card import write_card
from nas.report.numbers import metric_in_words
from nas.tasks import Metric, task_kind

_FORM = 7
"""Increase this when the contents of exports or baselines change, so that older ones are rebuilt."""


def is_current(run: Run, name: str, inputs: Callable[..., str], fine_tune: bool) -> bool:
    """Whether an export is up to date. Without `fine_tune`, an export that was fine-tuned counts as up to date too."""
    step = f"export-{name}"
    if run.is_done(step, inputs(run, fine_tune=fine_tune)):
        return True
    tuned = not fine_tune and run.is_done(step, inputs(run, fine_tune=True))
    if tuned:
        say(f"{name}: the fine-tuned export is up to date and is kept")
    return tuned


def exported(run: Run) -> list[str]:
    """Return the names of up-to-date exports: first those of budgets, then those of single candidates."""
    if not run.is_finished("front"):
        return []
    trials = [
        name
        for candidate in front(run)["candidates"]
        if _is_written(run, name := trial_name(candidate), partial(trial_inputs, run, candidate))
    ]
    return [budget.name for budget in run.study.budgets if is_exported(run, budget)] + trials


def is_exported(run: Run, budget: Budget) -> bool:
    """Whether a budget has an export that is up to date with the study, fine-tuned or not."""
    return _is_written(run, budget.name, partial(export_inputs, run, budget))


def _is_written(run: Run, name: str, inputs: Callable[[bool], str]) -> bool:
    """Whether an export is up to date, fine-tuned or not.

    `inputs` returns the digest of its inputs with or without fine-tuning. It is called only if the export exists.
    """
    step = f"export-{name}"
    return run.is_finished(step) and any(run.is_done(step, inputs(tuned)) for tuned in (True, False))


def trial_inputs(run: Run, candidate: dict[str, Any], fine_tune: bool) -> str:
    """Return the digest of everything that a single candidate's export is made from, including all device profiles."""
    given = [_FORM, candidate["architecture"], supernet_inputs(run), run.study.digest("export"), fine_tune]
    return digest([*given, measured_on(run)])


def trial_name(candidate: dict[str, Any]) -> str:
    """Return the name of a single candidate's export. It contains the trial number or, without one, the digest."""
    return f"{TRIAL}{candidate.get('trial', candidate['digest'][:8])}"


def candidate_of(run: Run, trial: str) -> dict[str, Any]:
    """Return the candidate whose trial number is `trial`, or else the one whose digest begins with `trial`.

    Raises `ExportError` unless exactly one candidate of the front matches.
    """
    candidates = front(run)["candidates"]
    found = [item for item in candidates if str(item.get("trial")) == trial]
    found = found or [item for item in candidates if item["digest"].startswith(trial)]
    if len(found) != 1:
        raise ExportError(
            f"--trial {trial}: must be the number of one trial, or the first digits of one digest, but "
            f"{len(found) or 'none'} of the {len(candidates)} candidates {'match' if found else 'matches'}; "
            "`nas front` lists them"
        )
    return dict(found[0])


def export_inputs(run: Run, budget: Budget, fine_tune: bool) -> str:
    """Return the digest of everything that the export for a budget is made from."""
    asked, settings = budget.model_dump(mode="json"), run.study.digest("export")
    given = [_FORM, file_digest(run.front), supernet_inputs(run), settings, asked, fine_tune and finalists_inputs(run)]
    return digest([*given, missed] if (missed := _missed(run, budget)) else given)


def record_miss(run: Run, budget: Budget, architecture: dict[str, Any]) -> None:
    """Record that an architecture missed a budget on an off-cluster device; `make_export` then skips it."""
    known = [*_missed(run, budget), Architecture.from_json(architecture).digest]
    write_json(run.missed(budget.name), {"of": _missed_of(run, budget), "digests": known})


def _missed(run: Run, budget: Budget) -> list[str]:
    """Return the digests of architectures whose exports missed a budget on an off-cluster device.

    Recorded misses are ignored if the budget, the supernet or a profile has changed since.
    """
    path = run.missed(budget.name)
    found: dict[str, Any] = read_json(path, ExportError) if path.exists() else {"of": None}
    return list(found["digests"]) if found["of"] == _missed_of(run, budget) else []


def _missed_of(run: Run, budget: Budget) -> str:
    """Return the digest of the budget, the supernet and the profiles on which recorded misses depend."""
    return digest([budget.model_dump(mode="json"), supernet_inputs(run), measured_on(run, *budget.devices)])


def baselines(run: Run) -> dict[str, dict[str, Any]]:
    """Return the verifications of all baselines that exist, by `<device>/<kind>`.

    The kinds are `teacher`, `teacher-int8` (its int8 form) and `static` (the static model).
    """
    names = [f"{device.name}/{kind}" for device in run.study.devices for kind in ("teacher", "teacher-int8", "static")]
    files = {name: run.folder / "baselines" / name / VERIFICATION_FILE for name in names}
    return {name: read_json(path, ExportError) for name, path in files.items() if path.exists()}


def verification(run: Run, name: str) -> dict[str, Any]:
    """Return the verification of an export, which holds the measurements of its files."""
    found: dict[str, Any] = read_json(run.export(name) / VERIFICATION_FILE, ExportError)
    return found


def baselines_inputs(run: Run, device: str) -> str:
    """Return the digest of everything that the baselines of a device depend on, including the machine."""
    found = device_of(run, device)
    return digest([_FORM, teacher_inputs(run), found.model_dump(mode="json"), fingerprint(found)])


def make_baselines(run: Run, stopwatch: Stopwatch, device: str) -> None:
    """Write and verify the uncompressed teacher and, if the device's runtime can run int8, its int8 form."""
    found, folder = device_of(run, device), _teacher_of(run, device)
    teacher, test, fed = load_teacher(run), splits(run).test, texts(run)
    metric = _write(run, teacher, folder, [found.runtime])
    accuracy = verify(folder, None, {found: None}, test, metric, fed)["accuracy"]
    if compression("int8").runs_on(found.runtime, found.processor):
        smaller = folder.with_name("teacher-int8")
        metric = _write(run, _quantised(teacher), smaller, [found.runtime])
        verify(smaller, None, {found: Reference(folder, accuracy)}, test, metric, fed)


def _teacher_of(run: Run, device: str) -> Path:
    return run.baselines(device) / "teacher"


def reference_of(run: Run, device: str) -> Reference:
    """Return the verified teacher with which exports are compared on a device."""
    folder = _teacher_of(run, device)
    return Reference(folder, read_json(folder / VERIFICATION_FILE, ExportError)["accuracy"])


def _references(run: Run, names: Iterable[str]) -> dict[Device, Reference]:
    return {device_of(run, name): reference_of(run, name) for name in names}


def _write(run: Run, model: CompactBert, folder: Path, runtimes: Collection[str]) -> Metric:
    """Write a network with the teacher's tokenizer to a folder; return the metric to evaluate it with.

    Raises `ExportError` if the written tokenizer returns other tokens for a text than the test set contains.
    """
    task, tokenizer, metric = run.study.task, load_tokenizer(run.teacher), _settled_metric(run, model)
    served = served_as(run)
    about = {**served, **metric.config_entries(model.config.outputs)}
    write_artefact(model, tokenizer, folder, runtimes, task.max_length, pairs=len(task.text) > 1, about_task=about)
    length = min(task.max_length, model.config.max_position_embeddings)
    for name, values in task_kind(task.kind).extra_files(served, length).items():
        write_json(folder / name, values)
    check_tokens(folder, splits(run).test, read_json(run.data / SAMPLE_FILE, ExportError))
    return metric


def _settled_metric(run: Run, model: CompactBert) -> Metric:
    """Return the study's metric. A setting that it leaves open, such as a threshold, is chosen on the search set."""
    metric = metric_of(run)
    if metric.is_calibrated:
        return metric
    searched = splits(run).search
    logits = logits_of(model, searched, "Answers to the search set")
    return metric.calibrated(logits, truth_of(searched))


def _quantised(teacher: CompactBert) -> CompactBert:
    config = teacher.config.with_architecture(compress_all(teacher.config.architecture, "int8"))
    model = CompactBert(config).eval()
    model.load_state_dict(teacher.state_dict())
    return model


def make_export(run: Run, stopwatch: Stopwatch, budget: Budget, fine_tune: bool) -> None:
    """Export the best candidate that meets a budget when its files are verified.

    The best one is the most accurate one or, if the budget has an accuracy floor, the cheapest one that reaches the
    floor. Raises `ExportError` if no measured candidate meets the budget.
    """
    if not fine_tune:
        drop_outputs(run)  # the stored outputs of the teacher are needed only for training
    measured, missed = front(run)["budgets"][budget.name], _missed(run, budget)
    floor = floors_of_exports(run).get(budget.name)
    writer, references = _Writer(run, fine_tune, floor), _references(run, budget.devices)
    able = [item for item in measured if item["met"] and item["digest"] not in missed]
    finalists = trained(run.finalists) if fine_tune else {}
    steps, in_time = training_steps(run) if fine_tune else 0, fine_tune and run.study.training.hours is not None
    if floor:
        done = {name for name, found in finalists.items() if found.accuracies[-1][0] == steps}
        able.sort(key=lambda item: (item["digest"] not in done, item[floor.minimise]))
    elif fine_tune:  # the sort is stable: finalists come first, and all others follow in their previous order
        able.sort(key=lambda item: finalists[item["digest"]].order if item["digest"] in finalists else (0, 0.0))
    below: list[tuple[float, dict[str, Any]]] = []
    for candidate in able:
        known = finalists.get(candidate["digest"])
        if floor and known and known.expected(steps) < floor.minimum:
            below.append((known.corrected_accuracy, candidate))
            continue
        if not known and any(candidate["search_accuracy"] <= other["search_accuracy"] for _, other in below):
            continue  # a candidate with at least this search accuracy has already missed the floor
        if floor and in_time and not known:
            continue  # `training.hours` leaves no time to train it
        weighed = writer.weighed(budget.name, candidate, dropped=floor is None or in_time)
        if floor and weighed.found.corrected_accuracy < floor.minimum:
            below.append((weighed.found.corrected_accuracy, candidate))
            continue
        if writer.write(budget.name, candidate, weighed, budget, references)["met"] is not False:
            return
        say(
            f"{budget.name}: {candidate['description']} misses the budget when verified; trying the next best candidate"
        )
        shutil.rmtree(run.export(budget.name))
    if floor and below:
        longer = "training.hours" if in_time else "supernet.steps, search.evaluations or export.epochs"
        remedy = f"lower the floor, or raise {longer}"
        raise ExportError(f"budgets.{budget.name}: {_below(floor, below)}; {remedy}")
    more = "training.hours" if run.study.training.hours else "search.evaluations"
    found, remedy = "no candidate is predicted to meet this budget", f"{more} or the budget"
    if measured:
        found, remedy = (
            f"none of the {len(measured)} measured candidates meets this budget",
            f"export.candidates, {remedy}",
        )
    raise ExportError(f"budgets.{budget.name}: {found}; raise {remedy}")


def _below(floor: Floor, below: list[tuple[float, dict[str, Any]]]) -> str:
    """Return a message about a floor that no candidate reaches, which describes the most accurate candidate."""
    accuracy, nearest = max(below, key=lambda one: one[0])
    return (
        f"no measured candidate reaches {floor.minimum:.4f} on the search set, where the teacher reaches "
        f"{floor.teacher:.4f}; the nearest candidate is {nearest['description']} ({nearest['digest'][:8]}), which "
        f"reaches {accuracy:.4f} at {metric_in_words(floor.minimise, nearest[floor.minimise])}"
    )


def missed_floors(run: Run) -> dict[str, str]:
    """Return a message for each budget whose floor no finalist reaches, by the budget's name."""
    if not run.is_finished("front") or not run.is_done("finalists", finalists_inputs(run)):
        return {}
    found, measured = trained(run.finalists), front(run)["budgets"]
    missed = dict[str, str]()
    for name, floor in floors_of_exports(run).items():
        below = [(found[item["digest"]].corrected_accuracy, item) for item in measured[name] if item["digest"] in found]
        if below and all(accuracy < floor.minimum for accuracy, _ in below):
            missed[name] = _below(floor, below)
    return missed


def make_trial(run: Run, stopwatch: Stopwatch, candidate: dict[str, Any], fine_tune: bool) -> None:
    """Export a single candidate and compare it with the teacher on all devices."""
    writer, name = _Writer(run, fine_tune), trial_name(candidate)
    references = _references(run, (device.name for device in run.study.devices))
    writer.write(name, candidate, writer.weighed(name, candidate, dropped=False), None, references)


class _Weighed(NamedTuple):
    """A network with the weights with which it is exported, and its accuracies."""

    model: CompactBert
    found: Finalist
    is_trained: bool

    def accuracies(self) -> dict[str, Any]:
        """Return the entries of the verification about the network's accuracy on the search set."""
        found = self.found
        return {
            "search_accuracy_inherited": found.inherited,
            "search_accuracy": found.accuracies[-1][1] if self.is_trained else found.inherited,
            "search_accuracy_in_training": [list(each) for each in found.accuracies],
            "search_accuracy_standard_error": found.standard_error,
            "fine_tuned": self.is_trained,
        }


@dataclass(frozen=True)
class _Writer:
    """Exports and verifies candidates of a run. Trains candidates that were not in the final training."""

    run: Run
    fine_tune: bool
    floor: Floor | None = None

    @cached_property
    def judge(self) -> Evaluator:
        return judge_of(self.run)

    def weighed(self, name: str, candidate: dict[str, Any], dropped: bool) -> _Weighed:
        """Return a candidate with its trained weights, or with its inherited weights if these are better.

        A candidate that was not in the final training is trained here, on its own. So is a candidate that was dropped
        during the final training, unless `dropped` permits the weights that it had when it was dropped.
        Without `self.fine_tune`, nothing is trained, and every candidate gets its inherited weights.
        """
        architecture = Architecture.from_json(candidate["architecture"])
        return self._trained(name, architecture, dropped) if self.fine_tune else self._inherited(architecture)

    def write(
        self,
        name: str,
        candidate: dict[str, Any],
        weighed: _Weighed,
        budget: Budget | None,
        references: dict[Device, Reference],
    ) -> dict[str, Any]:
        """Export a candidate under a name; return its verification."""
        run, folder = self.run, self.run.export(name)
        metric = _write(run, weighed.model, folder, [device.runtime for device in references])
        about: dict[str, Any] = {
            **weighed.accuracies(),
            **({"floor": self.floor.minimum, "teacher_search_accuracy": self.floor.teacher} if self.floor else {}),
            "predicted_ms": candidate["predicted_ms"],
            "architecture": candidate["architecture"],
            "description": candidate["description"],
            "commits": commits(run),
        }
        if counts := unlabelled_counts(run):
            about["unlabelled"] = asdict(counts)
        if taught := about_separate_teacher(run):
            about["separate_teacher"] = taught
        found = verify(folder, budget, references, splits(run).test, metric, texts(run), about)
        if found["met"] is not False:
            write_card(folder, run.study)
        return found

    def _inherited(self, architecture: Architecture) -> _Weighed:
        model = self.judge.network(architecture)
        return _Weighed(model, Finalist(*self.judge.judged(model), ()), False)

    def _trained(self, name: str, architecture: Architecture, dropped: bool) -> _Weighed:
        folder = self.run.finalists
        if not self._is_finalist(architecture, dropped):
            folder = self.run.trainings(name) / architecture.digest
            train_together(self.run, folder, [Contest([architecture])], f"Training for {name}")
        found = trained(folder)[architecture.digest]
        if found.is_gain:
            return _Weighed(load_trained(folder, architecture), found, True)
        say(
            f"{name}: training changed the search accuracy from {found.inherited:.4f} to "
            f"{found.accuracies[-1][1]:.4f}; the inherited weights are exported instead"
        )
        return _Weighed(self.judge.network(architecture), found, False)

    def _is_finalist(self, architecture: Architecture, dropped: bool) -> bool:
        """Whether the final training provides the weights of a network.

        The weights of a network that was dropped during the training count only if `dropped` is set.
        """
        if not self.run.is_done("finalists", finalists_inputs(self.run)):
            return False
        found = trained(self.run.finalists).get(architecture.digest)
        return found is not None and (dropped or found.accuracies[-1][0] == training_steps(self.run))
