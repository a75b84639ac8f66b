"""The last step: for each budget the most accurate candidate that is measured to meet it, written and verified.

Single candidates can be written and verified in the same way.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, compress_all
from nas.budget import TRIAL, Budget
from nas.compression import compression
from nas.data import TaskData
from nas.data.sample import SAMPLE_FILE
from nas.device import Device
from nas.errors import ExportError, MissedBudgetsError
from nas.evaluate import Evaluator
from nas.export import verify, write_artefact
from nas.export.artefact import VERIFICATION_FILE
from nas.export.tokens import check_tokens
from nas.export.verification import Reference
from nas.files import digest, file_digest, read_json, write_json
from nas.model import CompactBertForSequenceClassification
from nas.model.tokenizer import load_tokenizer
from nas.pipeline.prepare import metric_of, teacher_inputs
from nas.pipeline.run import Run
from nas.pipeline.searches import devices, evaluation, fingerprint, front, measured_on, search_candidates, texts
from nas.pipeline.snapshots import commits
from nas.pipeline.supernets import distillation, load_teacher, supernet_inputs
from nas.progress import say
from nas.report.card import write_card
from nas.supernet.checkpoints import drop_checkpoints
from nas.supernet.loops import Schedule

_FORM = 5
"""To be raised when an export or a baseline holds other things than before, so that older ones are rebuilt."""
_FLATTERED = 2.0
"""By so many standard errors of the metric the search set flatters a network that was chosen on it, before fine-tuning.

On SST-2, where one is 0.7 points of accuracy, it was 1.5 points (studies/LOG.md, 2026-11-26). What a choice gains by
luck grows with the noise of the metric on that set, so this holds for any metric and any number of texts.
"""


def export(run: Run, fine_tune: bool = True) -> dict[str, dict[str, Any]]:
    """Export one sub-network for each budget, after a search if there is none yet.

    Returns the verifications by the budget's name.

    Raises `MissedBudgetsError` when no measured candidate of a budget meets it, after the other budgets are served.
    """
    search_candidates(run)
    data = TaskData.load(run.data)
    references = {device: baselines_of(run, device, data) for device in devices(run)}
    fine_tune = fine_tune and run.study.export.fine_tune
    verified, missed = {}, dict[str, str]()
    for budget in run.study.budgets:
        inputs, step = export_inputs(run, budget, fine_tune), f"export-{budget.name}"
        folder = run.export(budget.name)
        try:
            if not _is_current(run, budget.name, partial(export_inputs, run, budget), fine_tune):
                with run.step(step, inputs, folder, run.trainings(budget.name)):
                    own = {device: found for device, found in references.items() if device.name in budget.devices}
                    _export_best(run, budget, _in_order(budget, own), data, fine_tune)
            _drop_checkpoints(run, budget.name)
            verified[budget.name] = read_json(folder / VERIFICATION_FILE, ExportError)
        except ExportError as problem:
            missed[budget.name] = str(problem)
    if missed:
        raise MissedBudgetsError(missed)
    return verified


def export_trial(run: Run, trial: str, fine_tune: bool = True) -> dict[str, dict[str, Any]]:
    """Export one candidate, given by its trial's number or the first digits of its digest, as those of budgets are.

    Returns its verification by the export's name. Raises `ExportError` if no or several candidates are meant.
    """
    search_candidates(run)
    candidate = _candidate(run, trial)
    name = trial_name(candidate)
    fine_tune = fine_tune and run.study.export.fine_tune
    inputs = _trial_inputs(run, candidate, fine_tune)
    if not _is_current(run, name, partial(_trial_inputs, run, candidate), fine_tune):
        data = TaskData.load(run.data)
        references = {device: baselines_of(run, device, data) for device in devices(run)}
        with run.step(f"export-{name}", inputs, run.export(name), run.trainings(name)):
            _Writer(run, data, fine_tune).write(name, candidate, None, references)
    _drop_checkpoints(run, name)
    return {name: read_json(run.export(name) / VERIFICATION_FILE, ExportError)}


def _is_current(run: Run, name: str, inputs: Callable[[bool], str], fine_tune: bool) -> bool:
    """Whether an export is up to date. A fine-tuned one also serves who wants none trained: it is not thrown away."""
    step = f"export-{name}"
    if run.is_done(step, inputs(fine_tune)):
        return True
    tuned = not fine_tune and run.is_done(step, inputs(True))
    if tuned:
        say(f"{name}: was exported with fine-tuning and is up to date; it stays")
    return tuned


def exported(run: Run) -> list[str]:
    """The names of the exports of this study as it is now: of budgets, then of single candidates."""
    if not run.is_finished("front"):
        return []
    trials = [
        name
        for candidate in front(run)["candidates"]
        if _is_written(run, name := trial_name(candidate), partial(_trial_inputs, run, candidate))
    ]
    return [budget.name for budget in run.study.budgets if is_exported(run, budget)] + trials


def is_exported(run: Run, budget: Budget) -> bool:
    """Whether a budget has an export of this study as it is now, fine-tuned or not."""
    return _is_written(run, budget.name, partial(export_inputs, run, budget))


def _is_written(run: Run, name: str, inputs: Callable[[bool], str]) -> bool:
    """Whether there is an export from such inputs, which are looked at only where there is one: fine-tuned or not."""
    step = f"export-{name}"
    return run.is_finished(step) and any(run.is_done(step, inputs(tuned)) for tuned in (True, False))


def _trial_inputs(run: Run, candidate: dict[str, Any], fine_tune: bool) -> str:
    """What the export of a single candidate is made from, the devices that it is measured on included."""
    given = [_FORM, candidate["architecture"], supernet_inputs(run), run.study.digest("export"), fine_tune]
    return digest([*given, measured_on(run)])


def trial_name(candidate: dict[str, Any]) -> str:
    """The name of a single candidate's export."""
    return f"{TRIAL}{candidate.get('trial', candidate['digest'][:8])}"


def _candidate(run: Run, trial: str) -> dict[str, Any]:
    candidates = front(run)["candidates"]
    found = [item for item in candidates if str(item.get("trial")) == trial]
    found = found or [item for item in candidates if item["digest"].startswith(trial)]
    if len(found) != 1:
        raise ExportError(
            f"--trial {trial}: must be the number of one trial, or the first digits of one digest, but "
            f"{len(found) or 'none'} of the {len(candidates)} candidates {'have' if found else 'has'} it; "
            "see `nas front`"
        )
    return dict(found[0])


def export_inputs(run: Run, budget: Budget, fine_tune: bool) -> str:
    """What an export is made from."""
    asked, settings = budget.model_dump(mode="json"), run.study.digest("export")
    given = [_FORM, file_digest(run.front), supernet_inputs(run), settings, asked, fine_tune]
    return digest([*given, missed] if (missed := _missed(run, budget)) else given)


def forget_export(run: Run, budget: Budget, architecture: dict[str, Any]) -> None:
    """Note that an export missed its budget elsewhere: the next one is another."""
    known = [*_missed(run, budget), Architecture.from_json(architecture).digest]
    write_json(run.missed(budget.name), {"of": _missed_of(run, budget), "digests": known})


def _missed(run: Run, budget: Budget) -> list[str]:
    """The digests of architectures that missed a budget, as it is now, on a device elsewhere."""
    path = run.missed(budget.name)
    found: dict[str, Any] = read_json(path, ExportError) if path.exists() else {"of": None}
    return list(found["digests"]) if found["of"] == _missed_of(run, budget) else []


def _missed_of(run: Run, budget: Budget) -> str:
    """What a miss is one of: on a device that was measured anew, or is set otherwise, it says nothing."""
    return digest([budget.model_dump(mode="json"), supernet_inputs(run), measured_on(run, *budget.devices)])


def baselines(run: Run) -> dict[str, dict[str, Any]]:
    """The verifications of the uncompressed and the int8 teacher, by `<device>/<kind>`."""
    names = [f"{device.name}/{kind}" for device in run.study.devices for kind in ("teacher", "teacher-int8")]
    files = {name: run.folder / "baselines" / name / VERIFICATION_FILE for name in names}
    return {name: read_json(path, ExportError) for name, path in files.items() if path.exists()}


def _drop_checkpoints(run: Run, name: str) -> None:
    for folder in run.trainings(name).glob("*"):
        drop_checkpoints(folder)


def _in_order(budget: Budget, references: dict[Device, Reference]) -> dict[Device, Reference]:
    """The references in the order of the budget's devices."""
    return dict(sorted(references.items(), key=lambda item: budget.devices.index(item[0].name)))


def baselines_of(run: Run, device: Device, data: TaskData) -> Reference:
    """The teacher as it is and, where the runtime can run it, wholly in int8: verified like any export."""
    metric = metric_of(run)
    folder, step = run.folder / "baselines" / device.name / "teacher", f"baselines-{device.name}"
    inputs = digest([_FORM, teacher_inputs(run), device.model_dump(mode="json"), fingerprint(device)])
    if not run.is_done(step, inputs):
        with run.step(step, inputs, folder.parent):
            teacher = load_teacher(run)
            _write(run, data, teacher, folder, [device.runtime])
            accuracy = verify(folder, None, {device: None}, data.test, metric, texts(run))["accuracy"]
            if compression("int8").runs_on(device.runtime, device.processor):
                quantised = _quantised(teacher)
                _write(run, data, quantised, folder.with_name("teacher-int8"), [device.runtime])
                reference = Reference(folder, accuracy)
                verify(folder.with_name("teacher-int8"), None, {device: reference}, data.test, metric, texts(run))
    return Reference(folder, read_json(folder / VERIFICATION_FILE, ExportError)["accuracy"])


def _write(
    run: Run, data: TaskData, model: CompactBertForSequenceClassification, folder: Path, runtimes: Collection[str]
) -> None:
    """Write a network with the teacher's tokenizer. Raises `ExportError` if that comes back as another."""
    task, tokenizer = run.study.task, load_tokenizer(run.teacher)
    write_artefact(model, tokenizer, folder, runtimes, task.max_length, pairs=len(task.text) > 1)
    check_tokens(folder, data.test, read_json(run.data / SAMPLE_FILE, ExportError))


def _quantised(teacher: CompactBertForSequenceClassification) -> CompactBertForSequenceClassification:
    config = teacher.config.with_architecture(compress_all(teacher.config.architecture, "int8"))
    model = CompactBertForSequenceClassification(config).eval()
    model.load_state_dict(teacher.state_dict())
    return model


def _export_best(
    run: Run, budget: Budget, references: dict[Device, Reference], data: TaskData, fine_tune: bool
) -> None:
    measured, missed = front(run)["budgets"][budget.name], _missed(run, budget)
    writer = _Writer(run, data, fine_tune)
    for candidate in (item for item in measured if item["met"] and item["digest"] not in missed):
        if writer.write(budget.name, candidate, budget, references)["met"] is not False:
            return
        say(f"{budget.name}: {candidate['description']} missed the budget when verified; taking the next best")
        shutil.rmtree(run.export(budget.name))
    found, remedy = "no candidate is predicted to meet it", "search.evaluations or the budget"
    if measured:
        found, remedy = f"none of the {len(measured)} measured candidates meets it", f"export.candidates, {remedy}"
    raise ExportError(f"budgets.{budget.name}: {found}; raise {remedy}")


@dataclass(frozen=True)
class _Writer:
    """Trains candidates of a run, writes and verifies them."""

    run: Run
    data: TaskData
    fine_tune: bool

    @cached_property
    def evaluator(self) -> Evaluator:
        recipe = replace(evaluation(self.run), examples=None)
        say(f"export: candidates are trained and judged on {recipe.processor}")
        return recipe.load()

    def write(
        self, name: str, candidate: dict[str, Any], budget: Budget | None, references: dict[Device, Reference]
    ) -> dict[str, Any]:
        """The verification of a candidate, exported under a name."""
        run, folder = self.run, self.run.export(name)
        model = self.evaluator.network(Architecture.from_json(candidate["architecture"]))
        inherited, error = self.evaluator.judged(model)
        accuracies, gains = [inherited], False
        if self.fine_tune:
            start = copy.deepcopy(model.state_dict())
            accuracies += self._fine_tune(model, name)
            gains = _gains(accuracies, error)
            if not gains:
                say(f"{name}: fine-tuning went from {accuracies[0]:.4f} to {max(accuracies[1:]):.4f}: left out")
                model.load_state_dict(start)
        _write(run, self.data, model, folder, [device.runtime for device in references])
        about = {
            "search_accuracy_inherited": accuracies[0],
            "search_accuracy": self.evaluator.accuracy_of(model) if gains else accuracies[0],
            "search_accuracy_by_epoch": accuracies,
            "search_accuracy_standard_error": error,
            "fine_tuned": gains,
            "predicted_ms": candidate["predicted_ms"],
            "architecture": candidate["architecture"],
            "description": candidate["description"],
            "commits": commits(run),
        }
        found = verify(folder, budget, references, self.data.test, metric_of(run), texts(run), about)
        if found["met"] is not False:
            write_card(folder, run.study)
        return found

    def _fine_tune(self, model: CompactBertForSequenceClassification, name: str) -> list[float]:
        """Train a model in place; returns the accuracies after each epoch, of which the best one stays."""
        settings, architecture = self.run.study.export, model.config.architecture
        schedule = Schedule(
            settings.learning_rate, settings.batch_size, epochs=settings.epochs, patience=settings.patience
        )
        folder = self.run.trainings(name) / architecture.digest
        origin = {
            "form": _FORM,
            "supernet": supernet_inputs(self.run),
            "export": settings.model_dump(mode="json"),
            "architecture": architecture.to_json(),
        }
        training = distillation(self.run, self.data, schedule, folder, origin)
        return training.train_subnetwork(model, f"Fine-tuning for {name}", self.evaluator.accuracy_of)


def _gains(accuracies: list[float], standard_error: float) -> bool:
    """Whether fine-tuning was worth it: `accuracies` on the search set are those before it and after each epoch.

    `standard_error` is that of the first one.
    """
    return max(accuracies[1:]) >= accuracies[0] - _FLATTERED * standard_error
