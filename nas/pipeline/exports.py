"""The last steps of a study: export the best network for each budget, and verify the exported files.

The best network is the most accurate one that meets the budget or, if the budget has an accuracy floor, the cheapest
one that reaches the floor. A user can also export a single candidate of the search. For each device, the teacher is
exported and verified in the same way, as a baseline.
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
from nas.compression import eight_bit_method
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
from nas.pipeline.calibration import calibrate_on_search_set
from nas.pipeline.data import metric_of, splits
from nas.pipeline.finalists import (
    Contest,
    Finalist,
    evaluated_texts,
    evaluator_of,
    finalists_inputs,
    load_trained,
    train_together,
    trained,
    training_steps,
)
from nas.pipeline.floors import floors_of_exports
from nas.pipeline.outputs import drop_outputs
from nas.pipeline.profiles import device_of, fingerprint, measured_on, texts
from nas.pipeline.run import Run
from nas.pipeline.searches import front
from nas.pipeline.separate_teacher import about_separate_teacher
from nas.pipeline.snapshots import commits
from nas.pipeline.sources import teacher_inputs
from nas.pipeline.supernets import supernet_inputs
from nas.pipeline.teachers import load_teacher, served_as
from nas.pipeline.unlabelled import unlabelled_counts
from nas.progress import Stopwatch, say
from nas.report.card import write_card
from nas.report.numbers import metric_in_words
from nas.tasks import Metric, task_kind

_RESULT_VERSION = 7
"""Increase this when the contents of exports or baselines change, so that older ones are rebuilt."""


def is_current(run: Run, name: str, inputs: Callable[..., str], fine_tune: bool) -> bool:
    """Whether an export is up to date. If `fine_tune` is not set, a fine-tuned export also counts as up to date."""
    step = f"export-{name}"
    if run.is_done(step, inputs(run, fine_tune=fine_tune)):
        return True
    tuned = not fine_tune and run.is_done(step, inputs(run, fine_tune=True))
    if tuned:
        say(f"{name}: the existing export, which is fine-tuned, is up to date and is kept")
    return tuned


def exported(run: Run) -> list[str]:
    """Return the names of the exports that are up to date: exports for budgets, then exports of single candidates."""
    if not run.is_finished("front"):
        return []
    trials = [
        name
        for candidate in front(run)["candidates"]
        if _is_written(run, name := trial_name(candidate), partial(trial_inputs, run, candidate))
    ]
    return [budget.name for budget in run.study.budgets if is_exported(run, budget)] + trials


def is_exported(run: Run, budget: Budget) -> bool:
    """Whether the export for a budget is up to date, with or without fine-tuning."""
    return _is_written(run, budget.name, partial(export_inputs, run, budget))


def _is_written(run: Run, name: str, inputs: Callable[[bool], str]) -> bool:
    """Whether an export is up to date, with or without fine-tuning.

    `inputs(True)` and `inputs(False)` return the digest of the export's inputs with and without fine-tuning. `inputs`
    is called only if the export exists.
    """
    step = f"export-{name}"
    return run.is_finished(step) and any(run.is_done(step, inputs(tuned)) for tuned in (True, False))


def trial_inputs(run: Run, candidate: dict[str, Any], fine_tune: bool) -> str:
    """Return the digest of everything that the export of a single candidate depends on."""
    inputs = [_RESULT_VERSION, candidate["architecture"], supernet_inputs(run), run.study.digest("export"), fine_tune]
    texts = evaluated_texts(run.study)
    return digest([*inputs, measured_on(run), *([texts] if texts else [])])


def trial_name(candidate: dict[str, Any]) -> str:
    """Return the name of a single candidate's export: `trial-`, and the trial number or the start of the digest."""
    return f"{TRIAL}{candidate.get('trial', candidate['digest'][:8])}"


def candidate_of(run: Run, trial: str) -> dict[str, Any]:
    """Return the candidate whose trial number is `trial`, or else the one whose digest begins with `trial`.

    The candidates include uniform networks that were measured for a budget, although these have no trial number. Raises
    `ExportError` unless exactly one candidate matches.
    """
    content = front(run)
    uniform = {item["digest"]: item for items in content["budgets"].values() for item in items if item.get("uniform")}
    candidates = list((uniform | {item["digest"]: item for item in content["candidates"]}).values())
    matches = [item for item in candidates if str(item.get("trial")) == trial]
    matches = matches or [item for item in candidates if item["digest"].startswith(trial)]
    if len(matches) != 1:
        raise ExportError(
            f"--trial {trial}: must be the trial number of a candidate, or the first digits of its digest, but "
            f"{len(matches) or 'none'} of the {len(candidates)} candidates {'match' if matches else 'matches'}; "
            "use a number or digest that `nas front` lists"
        )
    return dict(matches[0])


def export_inputs(run: Run, budget: Budget, fine_tune: bool) -> str:
    """Return the digest of everything that the export for a budget depends on."""
    limits, settings = budget.model_dump(mode="json"), run.study.digest("export")
    inputs = [
        _RESULT_VERSION,
        file_digest(run.front),
        supernet_inputs(run),
        settings,
        limits,
        fine_tune and finalists_inputs(run),
    ]
    return digest([*inputs, missed] if (missed := _missed_architectures(run, budget)) else inputs)


def record_miss(run: Run, budget: Budget, architecture: dict[str, Any]) -> None:
    """Record that an architecture missed a budget on an off-cluster device. `make_export` then skips this network."""
    digests = [*_missed_architectures(run, budget), Architecture.from_json(architecture).digest]
    write_json(run.missed(budget.name), {"of": _misses_digest(run, budget), "digests": digests})


def _missed_architectures(run: Run, budget: Budget) -> list[str]:
    """Return the digests of architectures whose exports missed a budget on an off-cluster device.

    A recorded miss is ignored if the budget, the supernet or a profile has changed since the miss was recorded.
    """
    path = run.missed(budget.name)
    record: dict[str, Any] = read_json(path, ExportError) if path.exists() else {"of": None}
    return list(record["digests"]) if record["of"] == _misses_digest(run, budget) else []


def _misses_digest(run: Run, budget: Budget) -> str:
    """Return the digest of the budget, the supernet and the profiles. A recorded miss is valid only for this digest."""
    return digest([budget.model_dump(mode="json"), supernet_inputs(run), measured_on(run, *budget.devices)])


def baselines(run: Run) -> dict[str, dict[str, Any]]:
    """Return the content of each existing baseline's `verification.json`, keyed by `<device>/<kind>`.

    The kinds are `teacher`, `teacher-int8` (the teacher in int8) and `static` (the static model).
    """
    names = [f"{device.name}/{kind}" for device in run.study.devices for kind in ("teacher", "teacher-int8", "static")]
    files = {name: run.folder / "baselines" / name / VERIFICATION_FILE for name in names}
    return {name: read_json(path, ExportError) for name, path in files.items() if path.exists()}


def verification(run: Run, name: str) -> dict[str, Any]:
    """Return the content of an export's `verification.json`: the measurements of the exported files."""
    content: dict[str, Any] = read_json(run.export(name) / VERIFICATION_FILE, ExportError)
    return content


def baselines_inputs(run: Run, device: str) -> str:
    """Return the digest of everything that a device's baselines depend on, including the device's machine."""
    resolved_device = device_of(run, device)
    return digest(
        [_RESULT_VERSION, teacher_inputs(run), resolved_device.model_dump(mode="json"), fingerprint(resolved_device)]
    )


def make_baselines(run: Run, stopwatch: Stopwatch, device: str) -> None:
    """Write and verify the uncompressed teacher and, if the device's runtime supports 8 bits, the teacher in int8."""
    resolved_device, folder = device_of(run, device), _teacher_folder(run, device)
    teacher, test, input_texts = load_teacher(run), splits(run).test, texts(run)
    metric = _write_network(run, teacher, folder, [resolved_device.runtime])
    accuracy = verify(folder, None, {resolved_device: None}, test, metric, input_texts)["accuracy"]
    method = eight_bit_method(resolved_device.runtime, resolved_device.processor)
    if method:
        int8_folder = folder.with_name("teacher-int8")
        metric = _write_network(run, _compressed_teacher(teacher, method), int8_folder, [resolved_device.runtime])
        verify(int8_folder, None, {resolved_device: Reference(folder, accuracy)}, test, metric, input_texts)


def _teacher_folder(run: Run, device: str) -> Path:
    return run.baselines(device) / "teacher"


def reference_of(run: Run, device: str) -> Reference:
    """Return the uncompressed teacher, with its measured accuracy, against which exports are compared on a device."""
    folder = _teacher_folder(run, device)
    return Reference(folder, read_json(folder / VERIFICATION_FILE, ExportError)["accuracy"])


def _references(run: Run, names: Iterable[str]) -> dict[Device, Reference]:
    return {device_of(run, name): reference_of(run, name) for name in names}


def _write_network(run: Run, model: CompactBert, folder: Path, runtimes: Collection[str]) -> Metric:
    """Write a network and the teacher's tokenizer to a folder; return the metric for evaluating the network.

    If the network's compression methods need ranges of activations, it is first calibrated on texts of the search set.
    Raises `ExportError` if the written tokenizer does not reproduce the tokens of the test set.
    """
    calibrate_on_search_set(run, model)
    task, tokenizer, metric = run.study.task, load_tokenizer(run.teacher), _calibrated_metric(run, model)
    served = served_as(run)
    config_entries = {**served, **metric.config_entries(model.config.outputs)}
    write_artefact(
        model, tokenizer, folder, runtimes, task.max_length, pairs=len(task.text) > 1, about_task=config_entries
    )
    length = min(task.max_length, model.config.max_position_embeddings)
    for name, values in task_kind(task.kind).extra_files(served, length).items():
        write_json(folder / name, values)
    check_tokens(folder, splits(run).test, read_json(run.data / SAMPLE_FILE, ExportError))
    return metric


def _calibrated_metric(run: Run, model: CompactBert) -> Metric:
    """Return the study's metric. If `task.threshold` is `search`, set its thresholds to the best on the search set."""
    metric = metric_of(run)
    if metric.is_calibrated:
        return metric
    search_set = splits(run).search
    logits = logits_of(model, search_set, "Outputs for the search set")
    return metric.calibrated(logits, truth_of(search_set))


def _compressed_teacher(teacher: CompactBert, method: str) -> CompactBert:
    config = teacher.config.with_architecture(compress_all(teacher.config.architecture, method))
    model = CompactBert(config).eval()
    model.load_state_dict(teacher.state_dict())
    return model


def make_export(run: Run, stopwatch: Stopwatch, budget: Budget, fine_tune: bool) -> None:
    """Export and verify the candidates for a budget one by one, best first, until an export meets the budget.

    The best candidate is the most accurate one or, if the budget has an accuracy floor, the cheapest one that reaches
    the floor. Raises `ExportError` if no measured candidate meets the budget.
    """
    if not fine_tune:
        drop_outputs(run)  # the stored outputs of the teacher are needed only for training
    measured, missed = front(run)["budgets"][budget.name], _missed_architectures(run, budget)
    floor = floors_of_exports(run).get(budget.name)
    writer, references = _Writer(run, fine_tune, floor), _references(run, budget.devices)
    candidates_left = [item for item in measured if item["met"] and item["digest"] not in missed]
    finalists = trained(run.finalists) if fine_tune else {}
    steps, is_time_limited = training_steps(run) if fine_tune else 0, fine_tune and run.study.training.hours is not None
    if floor:
        fully_trained = {name for name, finalist in finalists.items() if finalist.accuracies[-1][0] == steps}
        candidates_left.sort(key=lambda item: (item["digest"] not in fully_trained, item[floor.minimise]))
    elif fine_tune:  # the sort is stable: finalists come first, and all others follow in their previous order
        candidates_left.sort(
            key=lambda item: finalists[item["digest"]].order if item["digest"] in finalists else (0, 0.0)
        )
    below_floor: list[tuple[float, dict[str, Any]]] = []
    for candidate in candidates_left:
        finalist = finalists.get(candidate["digest"])
        if floor and finalist and finalist.expected(steps) < floor.minimum:
            below_floor.append((finalist.corrected_accuracy, candidate))
            continue
        if not finalist and any(candidate["search_accuracy"] <= other["search_accuracy"] for _, other in below_floor):
            continue  # a candidate with at least this search accuracy has already missed the floor
        if floor and is_time_limited and not finalist:
            continue  # `training.hours` leaves no time to train it
        network = writer.with_weights(budget.name, candidate, accept_dropped=floor is None or is_time_limited)
        if floor and network.finalist.corrected_accuracy < floor.minimum:
            below_floor.append((network.finalist.corrected_accuracy, candidate))
            continue
        if writer.write(budget.name, candidate, network, budget, references)["met"] is not False:
            return
        say(
            f"{budget.name}: the exported files of {candidate['description']} miss the budget; exporting the next best "
            "candidate"
        )
        shutil.rmtree(run.export(budget.name))
    if floor and below_floor:
        setting = "training.hours" if is_time_limited else "supernet.steps, search.evaluations or export.epochs"
        changes = {"accuracy": "lower the required accuracy", "accuracy_loss": "raise accuracy_loss"}
        lower = " and ".join(text for key, text in changes.items() if getattr(budget, key) is not None)
        remedy = f"{lower}, or raise {setting}"
        raise ExportError(f"budgets.{budget.name}: {_missed_floor_message(floor, below_floor)}; {remedy}")
    setting_to_raise = "training.hours" if run.study.training.hours else "search.evaluations"
    problem = "no candidate is predicted to meet this budget"
    if measured:
        count = len(measured)
        problem = (
            f"none of the {count} measured candidates meets" if count > 1 else "the measured candidate does not meet"
        )
        problem += " this budget"
        setting_to_raise = f"export.candidates or {setting_to_raise}"
    raise ExportError(f"budgets.{budget.name}: {problem}; raise {setting_to_raise}, or relax a limit of the budget")


def _missed_floor_message(floor: Floor, below_floor: list[tuple[float, dict[str, Any]]]) -> str:
    """Return a message for the case that no candidate reaches an accuracy floor.

    `below_floor` pairs each candidate's accuracy with its entry in `front.json`. The message describes the most
    accurate candidate.
    """
    accuracy, nearest = max(below_floor, key=lambda pair: pair[0])
    return (
        f"no measured candidate reaches the required accuracy of {floor.minimum:.4f} on the search set, where the "
        f"teacher reaches {floor.teacher:.4f}; the most accurate candidate is {nearest['description']} "
        f"({nearest['digest'][:8]}), which reaches {accuracy:.4f} at "
        f"{metric_in_words(floor.minimise, nearest[floor.minimise])}"
    )


def missed_floors(run: Run) -> dict[str, str]:
    """Return a message for each budget whose accuracy floor no finalist reaches, keyed by budget name."""
    if not run.is_finished("front") or not run.is_done("finalists", finalists_inputs(run)):
        return {}
    finalists, measured = trained(run.finalists), front(run)["budgets"]
    messages = dict[str, str]()
    for name, floor in floors_of_exports(run).items():
        trained_candidates = [
            (finalists[item["digest"]].corrected_accuracy, item)
            for item in measured[name]
            if item["digest"] in finalists
        ]
        if trained_candidates and all(accuracy < floor.minimum for accuracy, _ in trained_candidates):
            messages[name] = _missed_floor_message(floor, trained_candidates)
    return messages


def make_trial(run: Run, stopwatch: Stopwatch, candidate: dict[str, Any], fine_tune: bool) -> None:
    """Export a single candidate, and compare the candidate with the teacher on all devices."""
    writer, name = _Writer(run, fine_tune), trial_name(candidate)
    references = _references(run, (device.name for device in run.study.devices))
    writer.write(name, candidate, writer.with_weights(name, candidate, accept_dropped=False), None, references)


class _WithWeights(NamedTuple):
    """A network with the weights to be exported, and the accuracies of this network before and after training."""

    model: CompactBert
    finalist: Finalist
    is_trained: bool

    def accuracies(self) -> dict[str, Any]:
        """Return the entries of `verification.json` that describe the network's accuracy on the search set."""
        finalist = self.finalist
        return {
            "search_accuracy_inherited": finalist.inherited,
            "search_accuracy": finalist.accuracies[-1][1] if self.is_trained else finalist.inherited,
            "search_accuracy_in_training": [list(each) for each in finalist.accuracies],
            "search_accuracy_standard_error": finalist.standard_error,
            "fine_tuned": self.is_trained,
        }


@dataclass(frozen=True)
class _Writer:
    """Exports and verifies candidates of a run, after training those that were not in the final training."""

    run: Run
    fine_tune: bool
    floor: Floor | None = None

    @cached_property
    def evaluator(self) -> Evaluator:
        return evaluator_of(self.run)

    def with_weights(self, name: str, candidate: dict[str, Any], accept_dropped: bool) -> _WithWeights:
        """Return a candidate with its trained weights, or with the supernet's weights if these are more accurate.

        A candidate that was not in the final training is trained individually. A candidate that was dropped during the
        final training keeps the weights that it had when it was dropped if `accept_dropped` is set, and is otherwise
        trained individually. If `self.fine_tune` is not set, nothing is trained, and the candidate is returned with the
        supernet's weights.
        """
        architecture = Architecture.from_json(candidate["architecture"])
        if not self.fine_tune:
            model = self.evaluator.network(architecture)
            return _WithWeights(model, Finalist(*self.evaluator.judged(model), ()), False)
        folder = self.run.finalists
        if not self._has_trained_weights(architecture, accept_dropped):
            folder = self.run.trainings(name) / architecture.digest
            train_together(self.run, folder, [Contest([architecture])], f"Training for {name}")
        finalist = trained(folder)[architecture.digest]
        if finalist.is_gain:
            return _WithWeights(load_trained(folder, architecture), finalist, True)
        say(
            f"{name}: training lowered the accuracy on the search set from {finalist.inherited:.4f} to "
            f"{finalist.accuracies[-1][1]:.4f}; the supernet's weights are exported instead"
        )
        return _WithWeights(self.evaluator.network(architecture), finalist, False)

    def write(
        self,
        name: str,
        candidate: dict[str, Any],
        network: _WithWeights,
        budget: Budget | None,
        references: dict[Device, Reference],
    ) -> dict[str, Any]:
        """Export a candidate under the name `name`; return the content of the export's `verification.json`."""
        run, folder = self.run, self.run.export(name)
        metric = _write_network(run, network.model, folder, [device.runtime for device in references])
        entries: dict[str, Any] = {
            **network.accuracies(),
            **({"floor": self.floor.minimum, "teacher_search_accuracy": self.floor.teacher} if self.floor else {}),
            "predicted_ms": candidate["predicted_ms"],
            "architecture": candidate["architecture"],
            "description": candidate["description"],
            "commits": commits(run),
        }
        if counts := unlabelled_counts(run):
            entries["unlabelled"] = asdict(counts)
        if separate_teacher := about_separate_teacher(run):
            entries["separate_teacher"] = separate_teacher
        result = verify(folder, budget, references, splits(run).test, metric, texts(run), entries)
        if result["met"] is not False:
            write_card(folder, run.study)
        return result

    def _has_trained_weights(self, architecture: Architecture, accept_dropped: bool) -> bool:
        """Whether the final training produced weights that can be used for a network.

        The weights of a network that was dropped during the final training can be used only if `accept_dropped` is set.
        """
        if not self.run.is_done("finalists", finalists_inputs(self.run)):
            return False
        finalist = trained(self.run.finalists).get(architecture.digest)
        return finalist is not None and (accept_dropped or finalist.accuracies[-1][0] == training_steps(self.run))
