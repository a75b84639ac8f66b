"""The last step: for each budget the most accurate candidate that is measured to meet it, written and verified."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, compress_all
from nas.budget import Budget
from nas.compression import compression
from nas.data import TaskData
from nas.device import Device
from nas.errors import ExportError
from nas.export import verify, write_artefact
from nas.export.artefact import VERIFICATION_FILE
from nas.export.verification import Reference
from nas.files import digest, file_digest, read_json, write_json
from nas.model import CompactBertForSequenceClassification
from nas.pipeline.prepare import load_tokenizer, teacher_inputs
from nas.pipeline.run import Run
from nas.pipeline.searches import devices, evaluation, fingerprint, front, search_candidates, texts
from nas.pipeline.supernets import distillation, load_supernet, load_teacher, supernet_inputs
from nas.progress import say
from nas.report.card import write_card
from nas.supernet.loops import Schedule


def export(run: Run, fine_tune: bool = True) -> dict[str, dict[str, Any]]:
    """Export one sub-network for each budget, after a search if there is none yet.

    Returns the verifications by the budget's name.

    Raises `ExportError` when no measured candidate of a budget meets it, after the other budgets are served.
    """
    search_candidates(run)
    data = TaskData.load(run.data)
    references = {device: baselines_of(run, device, data) for device in devices(run)}
    fine_tune = fine_tune and run.study.export.fine_tune
    verified, problems = {}, []
    for budget in run.study.budgets:
        inputs, step = export_inputs(run, budget, fine_tune), f"export-{budget.name}"
        folder = run.export(budget.name)
        try:
            if not run.is_done(step, inputs):
                with run.step(step, inputs, folder, _checkpoints(run, budget)):
                    own = {device: found for device, found in references.items() if device.name in budget.devices}
                    _export_best(run, budget, _in_order(budget, own), data, fine_tune)
            shutil.rmtree(_checkpoints(run, budget), ignore_errors=True)
            verified[budget.name] = read_json(folder / VERIFICATION_FILE, ExportError)
        except ExportError as problem:
            problems.append(problem)
    if problems:
        raise problems[0]
    return verified


def export_inputs(run: Run, budget: Budget, fine_tune: bool) -> str:
    """What an export is made from."""
    asked, settings = budget.model_dump(mode="json"), run.study.digest("export")
    given = [file_digest(run.front), supernet_inputs(run), settings, asked, fine_tune]
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
    return digest([budget.model_dump(mode="json"), supernet_inputs(run)])


def baselines(run: Run) -> dict[str, dict[str, Any]]:
    """The verifications of the uncompressed and the int8 teacher, by `<device>/<kind>`."""
    names = [f"{device.name}/{kind}" for device in run.study.devices for kind in ("teacher", "teacher-int8")]
    files = {name: run.folder / "baselines" / name / VERIFICATION_FILE for name in names}
    return {name: read_json(path, ExportError) for name, path in files.items() if path.exists()}


def _checkpoints(run: Run, budget: Budget) -> Path:
    return run.folder / "fine-tuning" / budget.name


def _in_order(budget: Budget, references: dict[Device, Reference]) -> dict[Device, Reference]:
    """The references in the order of the budget's devices."""
    return dict(sorted(references.items(), key=lambda item: budget.devices.index(item[0].name)))


def baselines_of(run: Run, device: Device, data: TaskData) -> Reference:
    """The teacher as it is and, where the runtime can run it, wholly in int8: verified like any export."""
    metric = run.study.task.metric
    folder, step = run.folder / "baselines" / device.name / "teacher", f"baselines-{device.name}"
    inputs = digest([teacher_inputs(run), device.model_dump(mode="json"), fingerprint(device)])
    if not run.is_done(step, inputs):
        with run.step(step, inputs, folder.parent):
            teacher, tokenizer = load_teacher(run), load_tokenizer(run.teacher)
            write_artefact(teacher, tokenizer, folder, [device.runtime])
            accuracy = verify(folder, None, {device: None}, data.test, metric, texts(run))["accuracy"]
            if device.runtime in compression("int8").runtimes and device.processor == "cpu":
                quantised = _quantised(teacher)
                write_artefact(quantised, tokenizer, folder.with_name("teacher-int8"), [device.runtime])
                reference = Reference(folder, accuracy)
                verify(folder.with_name("teacher-int8"), None, {device: reference}, data.test, metric, texts(run))
    return Reference(folder, read_json(folder / VERIFICATION_FILE, ExportError)["accuracy"])


def _quantised(teacher: CompactBertForSequenceClassification) -> CompactBertForSequenceClassification:
    config = teacher.config.with_architecture(compress_all(teacher.config.architecture, "int8"))
    model = CompactBertForSequenceClassification(config).eval()
    model.load_state_dict(teacher.state_dict())
    return model


def _export_best(
    run: Run, budget: Budget, references: dict[Device, Reference], data: TaskData, fine_tune: bool
) -> None:
    study, folder = run.study, run.export(budget.name)
    measured = front(run)["budgets"][budget.name]
    supernet = load_supernet(run)
    evaluator = replace(evaluation(run), examples=None).load()
    missed = _missed(run, budget)
    for candidate in (item for item in measured if item["met"] and item["digest"] not in missed):
        model = supernet.extract(Architecture.from_json(candidate["architecture"]))
        inherited = evaluator.accuracy_of(model)
        if fine_tune:
            _fine_tune(run, model, data, budget)
        write_artefact(model, load_tokenizer(run.teacher), folder, [device.runtime for device in references])
        about = {
            "search_accuracy_inherited": inherited,
            "search_accuracy": evaluator.accuracy_of(model),
            "fine_tuned": fine_tune,
            "predicted_ms": candidate["predicted_ms"],
            "architecture": candidate["architecture"],
            "description": candidate["description"],
        }
        if verify(folder, budget, references, data.test, study.task.metric, texts(run), about)["met"] is not False:
            write_card(folder, study)
            return
        say(f"{budget.name}: {candidate['description']} missed the budget when verified; taking the next best")
        shutil.rmtree(folder)
    raise ExportError(
        f"budgets.{budget.name}: none of the {len(measured)} measured candidates meets it; "
        "raise export.candidates, search.evaluations or the budget"
    )


def _fine_tune(run: Run, model: CompactBertForSequenceClassification, data: TaskData, budget: Budget) -> None:
    settings = run.study.export
    schedule = Schedule(settings.learning_rate, settings.batch_size, epochs=settings.epochs)
    folder = _checkpoints(run, budget) / model.config.architecture.digest
    origin = {
        "supernet": supernet_inputs(run),
        "export": settings.model_dump(mode="json"),
        "architecture": model.config.architecture.to_json(),
    }
    training = distillation(run, data, schedule, folder, origin)
    training.train_subnetwork(model, f"Fine-tuning for {budget.name}")
