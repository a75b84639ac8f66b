"""Verify an export: reload its files from disk and measure accuracy, latency and size.

`verify` measures an export and the teacher on each device, checks whether the budget is met, and writes the result to
`verification.json`. The reports and the model card use this file. `verify_file` measures a single ONNX file in the same
way. For devices outside the cluster, `nas/pipeline/devices.py` adds the latencies later, with `timing_entries` and
`on_all`.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from datasets import Dataset

from nas.budget import LATENCIES, RATES, Budget, Limits
from nas.data import Batch, batches_by_length, truth_of
from nas.device import Device
from nas.errors import DeviceError
from nas.evaluate import predict
from nas.evaluate.accuracy import exit_shares, forward_of
from nas.evaluate.spread import standard_error
from nas.export.artefact import ONNX_FILE, SAMPLES_FILE, VERIFICATION_FILE, network_type_of, served_files
from nas.export.sentences import SentenceEncoder
from nas.export.standalone import MODELING_FILE
from nas.files import canonical_json, file_digest, write_json, write_text
from nas.form import CLASSIFIERS, OUTPUT_NAMES
from nas.latency.exits import measure_with_exits
from nas.latency.measure import Network, Texts, measure_peak_memory
from nas.latency.record import LatencyRecord, latency_metrics
from nas.model import CompactBert
from nas.model.modeling import AUTO_MODELS, CompactBertModel
from nas.model.sizes import MB
from nas.model.stock import AUTO_CLASSES, from_stock
from nas.progress import say
from nas.runtimes import ONNX_RUNTIME, FileRuntime, ModuleRuntime, runtime_of
from nas.tasks import Metric

_LEAST_AGREEMENT = 0.99
"""The smallest expected fraction of texts for which the served file and the Hugging Face model give the same answer."""
_ALLOWED_DIFFERENCES = 2
"""The number of texts with different answers that is allowed even for a small test set, because rounding can decide
between nearly equal logits.
"""
_EXPORT, _TEACHER = "export", "teacher"
_NO_TIMINGS: dict[str, Any] = dict.fromkeys((*LATENCIES, *RATES, "teacher_p50_ms", "speed_up", "met"))
"""The entries of a verification that depend on latencies, for a device whose latencies are not known."""


@dataclass(frozen=True)
class Artefact:
    """The folder of an export, and the device that serves the export."""

    folder: Path
    device: Device

    def logits(self, split: Dataset) -> np.ndarray:
        """Return the logits of a split, computed by the device's runtime with its batch size and without padding."""
        return self.answers(split)[0]

    def answers(self, split: Dataset) -> tuple[np.ndarray, list[int]]:
        """Return the logits of a split, and the numbers of layers that the texts passed through before they exited.

        These numbers are in no particular order. Their list is empty if the network has no early exits.
        """
        batches = (
            small_batch
            for batch in batches_by_length(split)
            for small_batch in _split_batch(batch, self.device.batch_size)
        )
        exit_layers: list[int] = []
        return predict(self._forward(exit_layers), batches, f"Accuracy of {self.folder.name}"), exit_layers

    def _forward(self, exit_layers: list[int]) -> Callable[[Batch], np.ndarray]:
        # For a device on a different machine, answers are computed here, on the CPU. Compiling would not change them.
        processor = self.device.processor if self.device.where == "here" else "cpu"
        device = self.device.model_copy(update={"compiled": False, "processor": processor})
        runtime = runtime_of(device)
        if isinstance(runtime, ModuleRuntime):
            return forward_of(runtime.placed(reload(self.folder), device), processor=processor)
        assert isinstance(runtime, FileRuntime)
        session = runtime.session(served_files(self.folder, device.runtime)[0], device)
        logits_name = OUTPUT_NAMES[network_type_of(self.folder)]

        def forward(batch: Batch) -> np.ndarray:
            inputs = {name: value.numpy() for name, value in batch.inputs.items()}
            inputs["attention_mask"] = np.ones_like(inputs["input_ids"])
            outputs = session(inputs)
            exit_layers.extend(outputs["left_after"].reshape(-1).tolist() if "left_after" in outputs else [])
            return outputs[logits_name]

        return forward

    def network(self, early: bool = False) -> Network:
        """Return the network whose latency is measured.

        If the runtime executes PyTorch modules, or if the network has early exits (`early`), the result is the reloaded
        model. Otherwise, the result is the served file.
        """
        is_file = isinstance(runtime_of(self.device), FileRuntime) and not early
        return served_files(self.folder, self.device.runtime)[0] if is_file else as_compact(self.folder)

    @property
    def digests(self) -> list[str]:
        """The digests of the served files."""
        return [file_digest(path) for path in served_files(self.folder, self.device.runtime)]

    @property
    def size_mb(self) -> float:
        """The size of the served files, in 10^6 bytes."""
        return sum(path.stat().st_size for path in served_files(self.folder, self.device.runtime)) / MB


def reload(folder: Path) -> Any:
    """Load the exported Hugging Face model in evaluation mode. An encoder is loaded with the modules that follow it."""
    return _with_modules(AUTO_CLASSES[network_type_of(folder)].from_pretrained(folder), folder)


def _with_modules(model: Any, folder: Path) -> Any:
    return (SentenceEncoder(model, folder) if network_type_of(folder) == "encoder" else model).eval()


def reload_alone(folder: Path) -> Any:
    """Load the exported model as a user without `nas` does: with the modelling file, if the folder has one."""
    path = folder / MODELING_FILE
    if not path.exists():
        return reload(folder)
    spec = importlib.util.spec_from_file_location(f"{path.stem}_{file_digest(path)}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look modules up there
    spec.loader.exec_module(module)
    model = getattr(module, AUTO_MODELS[network_type_of(folder)][1].__name__).from_pretrained(folder)
    return _with_modules(model, folder)


def as_compact(folder: Path) -> CompactBert:
    """Load the exported model as a `CompactBert`, even if it was saved as a stock transformers model."""
    model = reload(folder)
    if isinstance(model, SentenceEncoder):
        return _compact_encoder(model)
    return model if isinstance(model, CompactBert) else from_stock(model, CLASSIFIERS[network_type_of(folder)])


def _compact_encoder(model: SentenceEncoder) -> CompactBert:
    if isinstance(model.encoder, CompactBertModel):
        network = CompactBert(model.encoder.config)
        network.bert, network.classifier = model.encoder, model.dense
    else:
        network = from_stock(model.encoder, replace(model.form, own_width=model.dense is None), model.dense)
    return network.eval()


def _split_batch(batch: Batch, size: int) -> list[Batch]:
    return [
        Batch(
            batch.rows[start : start + size],
            {name: value[start : start + size] for name, value in batch.inputs.items()},
        )
        for start in range(0, len(batch.rows), size)
    ]


@dataclass(frozen=True)
class Reference:
    """The uncompressed teacher: its folder, and its accuracy on the test set on one device."""

    folder: Path
    accuracy: float


def verify(
    folder: Path,
    budget: Budget | None,
    references: Mapping[Device, Reference | None],
    test: Dataset,
    metric: Metric,
    texts: Texts,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Measure an export, reloaded from disk, and the teacher. Write the result to `verification.json` and return it.

    The top-level metrics in the result are those on the first device. If there are several devices, the entry `devices`
    holds the metrics on each device. `references` holds the teacher on each device, or None if the export is the
    teacher itself. Without a budget, `met` is true on every measured device. `about` holds additional entries for the
    result.

    A device outside the cluster cannot be measured here. For such a device, the latencies and `met` are None until the
    latencies are imported.
    """
    by_device = {
        device.name: _verify_on(Artefact(folder, device), reference, budget, test, metric, texts)
        for device, reference in references.items()
    }
    for name, on_device in by_device.items():
        if on_device["agrees"] is False:
            say(
                f"{folder.name}: on device {name} the served file and the Hugging Face model give the same answer "
                f"for only {on_device['agreement_with_hugging_face']:.1%} of the texts, but at least "
                f"{_LEAST_AGREEMENT:.0%} are expected; the reported metrics are those of the served file, so use the "
                "served file"
            )
    samples = {name: on_device.pop("samples_ms", None) for name, on_device in by_device.items()}
    write_text(folder / SAMPLES_FILE, canonical_json(samples) + "\n")
    verification = {"budget": budget.model_dump(mode="json", exclude_none=True) if budget else None, **about}
    verification |= on_all(by_device)
    write_json(folder / VERIFICATION_FILE, verification)
    return verification


def on_all(by_device: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Combine the verifications on all devices into one, whose metrics are those of the first device.

    `by_device` and the result's entry `devices` hold the verification on each device, keyed by device name. If there is
    only one device, the result has no entry `devices`. The entry `met` is false if the budget is missed on any device,
    true if it is met on all devices, and None if some latencies are not known yet.
    """
    verdicts = [on_device["met"] for on_device in by_device.values()]
    met = False if False in verdicts else None if None in verdicts else True
    return {
        **next(iter(by_device.values())),
        "met": met,
        **({"devices": dict(by_device)} if len(by_device) > 1 else {}),
    }


def on_each(verification: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split a combined verification into the verifications on each device, keyed by device name."""
    by_device: dict[str, dict[str, Any]] = verification.get("devices") or {verification["device"]: dict(verification)}
    return by_device


def _verify_on(
    artefact: Artefact, reference: Reference | None, budget: Budget | None, test: Dataset, metric: Metric, texts: Texts
) -> dict[str, Any]:
    labels = truth_of(test)
    logits, exit_layers = artefact.answers(test)
    accuracy = metric.score(logits, labels)
    model = reload_alone(artefact.folder)
    reloaded_logits = predict(forward_of(model), batches_by_length(test), "Accuracy of the Hugging Face model")
    agreement = _agreement(metric.answers(logits, labels), metric.answers(reloaded_logits, labels))
    exits = exit_shares(exit_layers, len(model.layers)) if exit_layers else ()
    stored = stored_metrics(artefact)
    limits = budget.on(artefact.device.name) if budget else None
    by_label = metric.by_label(logits, labels, list(model.config.id2label.values()))
    timings = _NO_TIMINGS
    if artefact.device.where != "elsewhere":
        measures_memory = limits is not None and limits.peak_memory_mb is not None
        timings = timing(
            artefact, reference, exits, limits, stored, Texts(texts.ids, model.config.vocab_size), measures_memory
        )
    return {
        "device": artefact.device.name,
        "metric": metric.label,
        "accuracy": accuracy,
        "accuracy_standard_error": sampling_error(metric, logits, labels),
        "teacher_accuracy": reference.accuracy if reference else accuracy,
        "test_examples": len(labels),
        **({"judged": f"{metric.size(labels):,} {metric.size_word}"} if metric.judges_groups else {}),
        **timings,
        **stored,
        **({"exits": list(exits)} if exits else {}),
        "agreement_with_hugging_face": agreement,
        "agrees": _agrees(agreement, len(labels), artefact.device),
        **({"labels": by_label} if by_label else {}),
        **_compared_outputs(metric, logits, labels),
    }


def _compared_outputs(metric: Metric, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the entry `shown`: the output and the label of each text that the report compares, keyed by row number."""
    row_labels = labels["label"] if metric.judges_groups else labels
    rows = metric.rows_to_compare(labels)
    outputs = {str(row): {"output": logits[row].tolist(), "label": row_labels[row].tolist()} for row in rows}
    return {"shown": outputs} if rows else {}


def timing(
    artefact: Artefact,
    reference: Reference | None,
    exits: Sequence[float],
    limits: Limits | None,
    stored: Mapping[str, float],
    texts: Texts,
    memory: bool,
) -> dict[str, Any]:
    """Measure the latency of an export and of the teacher in alternation, and return the result of `timing_entries`.

    `exits` holds the fraction of texts that exit after each layer. It is empty if there are no early exits. `memory`
    says whether peak memory is measured too.
    """
    device, title = artefact.device, f"Measuring {artefact.folder.name}"
    networks = served_networks(artefact, reference, exits)
    records = measure_with_exits(device, networks, exits_of(exits), device.repeats, title, texts)
    peaks = measure_peak_memory(device, networks, texts) if memory else {}
    teacher_stored = stored_metrics(Artefact(reference.folder, device)) if reference else stored
    return timing_entries(records, peaks, limits, stored, teacher_stored)


def served_networks(artefact: Artefact, reference: Reference | None, exits: Sequence[float]) -> dict[str, Network]:
    """Return the networks to measure, keyed by `export` and `teacher`.

    If the export is the teacher itself, `reference` is None, and the result has no `teacher`.
    """
    teacher = {_TEACHER: Artefact(reference.folder, artefact.device).network()} if reference else {}
    return {**teacher, _EXPORT: artefact.network(early=bool(exits))}


def exits_of(exits: Sequence[float]) -> dict[str, Sequence[float]]:
    """Return a mapping from the export's name in `served_networks` to `exits`. It is empty without early exits."""
    return {_EXPORT: exits} if exits else {}


def timing_entries(
    records: Mapping[str, LatencyRecord],
    peaks: Mapping[str, float],
    limits: Limits | None,
    stored: Mapping[str, float],
    teacher_stored: Mapping[str, float],
) -> dict[str, Any]:
    """Return the entries of a verification that depend on latency records, such as `p50_ms`, `speed_up` and `met`.

    `records` has the key `export` and, unless the export is the teacher itself, the key `teacher`. Raises `DeviceError`
    if `limits` contains a memory limit but `peaks` is empty.
    """
    if limits is not None and limits.peak_memory_mb is not None and not peaks:
        raise DeviceError(
            f"budgets: peak_memory_mb cannot be checked on {limits.device}: its operating system does not report the "
            "peak memory of a process; remove this limit"
        )
    export, teacher = records[_EXPORT], records.get(_TEACHER, records[_EXPORT])
    figures = latency_metrics(export, records.get(f"{_EXPORT}/worst")) | _peak_memory(peaks, _EXPORT)
    reference = latency_metrics(teacher) | _peak_memory(peaks, _TEACHER) | dict(teacher_stored)
    return {
        **figures,
        "teacher_p50_ms": teacher.p50_ms,
        "speed_up": teacher.p50_ms / export.p50_ms,
        "met": limits is None or limits.violation(figures | dict(stored), reference) <= 0.0,
        "samples_ms": {name: [round(sample, 4) for sample in record.samples_ms] for name, record in records.items()},
        "latency": export.summary(),
        "teacher_latency": teacher.summary(),
        "environment": export.environment,
    }


def _peak_memory(peaks: Mapping[str, float], name: str) -> dict[str, float]:
    return {"peak_memory_mb": peaks[name]} if name in peaks else {}


def verify_file(
    folder: Path, device: Device, reference: Reference, test: Dataset, metric: Metric, texts: Texts, params: int
) -> dict[str, Any]:
    """Return the verification of an ONNX file that computes `logits` from `input_ids`, such as that of a static model.

    ONNX Runtime computes the logits for the accuracy on the CPU. The latency is measured on the device, in alternation
    with the teacher's latency. The latency is None if the device's runtime executes torch modules, or if the device is
    outside the cluster.
    """
    settings = {"runtime": ONNX_RUNTIME.name, "processor": "cpu", "number_format": "float32"}
    cpu_device = device.model_copy(update=settings)
    path = folder / ONNX_FILE
    session = ONNX_RUNTIME.session(path, cpu_device)
    labels = truth_of(test)
    logits = predict(
        lambda batch: session({name: value.numpy() for name, value in batch.inputs.items()})["logits"],
        batches_by_length(test),
    )
    accuracy, stored = metric.score(logits, labels), {"size_mb": path.stat().st_size / MB, "params": params}
    timings = _NO_TIMINGS
    if device.where != "elsewhere" and isinstance(runtime_of(device), FileRuntime):
        teacher = Artefact(reference.folder, device)
        records = measure_with_exits(
            device,
            {_TEACHER: teacher.network(), _EXPORT: path},
            {},
            device.repeats,
            f"Measuring {folder.name}",
            Texts(texts.ids, as_compact(reference.folder).config.vocab_size),
        )
        timings = timing_entries(records, {}, None, stored, stored_metrics(teacher))
        timings.pop("samples_ms")
    return {
        "device": device.name,
        "metric": metric.label,
        "budget": None,
        "accuracy": accuracy,
        "accuracy_standard_error": sampling_error(metric, logits, labels),
        "teacher_accuracy": reference.accuracy,
        "test_examples": len(labels),
        **timings,
        **stored,
    }


def stored_metrics(artefact: Artefact) -> dict[str, float]:
    """Return the metrics that depend only on the export's files: size in 10^6 bytes, and number of parameters."""
    return {"size_mb": artefact.size_mb, "params": reload(artefact.folder).num_parameters()}


def sampling_error(metric: Metric, logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the standard error of a metric. For a fraction of correct answers, the binomial formula is used."""
    if not metric.is_share:
        return standard_error(metric, logits, labels)
    share = metric.score(logits, labels)
    return math.sqrt(share * (1.0 - share) / len(labels))


def _agreement(first: np.ndarray | None, second: np.ndarray | None) -> float | None:
    """Return the fraction of texts with equal answers in `first` and `second`, which have one row per text.

    The result is None if there are no answers.
    """
    if first is None or second is None:
        return None
    return float((first == second).reshape(len(first), -1).all(axis=1).mean())


def _agrees(agreement: float | None, texts: int, device: Device) -> bool | None:
    """Whether the fraction of texts with equal answers is large enough.

    The result is None if the fraction is unknown or if the device serves batches of several texts. With int8,
    activations in a batch are quantised differently from those of a single text, so that answers may differ.
    """
    if agreement is None or device.batch_size != 1:
        return None
    return round((1.0 - agreement) * texts) <= max(_ALLOWED_DIFFERENCES, (1.0 - _LEAST_AGREEMENT) * texts)
