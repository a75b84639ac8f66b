"""Verification: everything is measured again on what was written, reloaded from disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from nas.data import Batch, batches_by_length, score
from nas.evaluate import predict
from nas.evaluate.accuracy import exit_shares, forward_of
from nas.export.artefact import ONNX_FILE, VERIFICATION_FILE, stored_file
from nas.files import write_json
from nas.latency import LatencyRecord
from nas.latency.exits import measure_with_exits
from nas.latency.measure import Network
from nas.latency.record import latency_figures
from nas.latency.runtimes import session_of
from nas.model import CompactBertForSequenceClassification
from nas.model.sizes import MB
from nas.study import Budget, Device

_ROUNDS = 15


@dataclass(frozen=True)
class Artefact:
    """A written export, to be looked at from outside."""

    folder: Path
    device: Device

    def logits(self, split: Dataset) -> np.ndarray:
        """Logits of a split as the device's runtime serves them: at its batch size, without padding."""
        return self.answers(split)[0]

    def answers(self, split: Dataset) -> tuple[np.ndarray, list[int]]:
        """The logits, and after how many layers each text left, if it can leave early."""
        batches = (part for batch in batches_by_length(split) for part in _cut(batch, self.device.batch_size))
        left: list[int] = []
        return predict(self._forward(left), batches), left

    def _forward(self, left: list[int]) -> Callable[[Batch], np.ndarray]:
        if self.device.runtime == "torch":
            return forward_of(reload(self.folder))
        session = session_of(self.folder / ONNX_FILE, self.device.threads)
        asked = [output.name for output in session.get_outputs()]

        def forward(batch: Batch) -> np.ndarray:
            fed = {name: value.numpy() for name, value in batch.inputs.items()}
            fed["attention_mask"] = np.ones_like(fed["input_ids"])
            found: dict[str, np.ndarray] = dict(zip(asked, session.run(asked, fed), strict=True))
            left.extend(found["left_after"].reshape(-1).tolist() if "left_after" in found else [])
            return found["logits"]

        return forward

    def network(self, early: bool = False) -> Network:
        """What is timed: the file itself; the reloaded model for torch, and where texts leave it `early`."""
        whole = self.device.runtime == "onnxruntime" and not early
        return self.folder / ONNX_FILE if whole else as_compact(self.folder)

    @property
    def size_mb(self) -> float:
        """The size of the file that is deployed, in 10^6 bytes."""
        return stored_file(self.folder, self.device.runtime).stat().st_size / MB


def reload(folder: Path) -> Any:
    """The exported Hugging Face model, in evaluation mode."""
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def as_compact(folder: Path) -> CompactBertForSequenceClassification:
    """The exported model as `CompactBert`, also if it was saved as its family's own class."""
    from nas.model.stock import from_stock

    model = reload(folder)
    return model if isinstance(model, CompactBertForSequenceClassification) else from_stock(model)


def _cut(batch: Batch, size: int) -> list[Batch]:
    return [
        Batch(batch.rows[at : at + size], {name: value[at : at + size] for name, value in batch.inputs.items()})
        for at in range(0, len(batch.rows), size)
    ]


@dataclass(frozen=True)
class Reference:
    """The uncompressed teacher on the same device and test set."""

    folder: Path
    accuracy: float


def verify(
    folder: Path,
    budget: Budget | None,
    device: Device,
    reference: Reference | None,
    test: Dataset,
    metric: str,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Measure an export as reloaded from disk, beside the teacher, and write `verification.json`.

    Without a reference the export is itself the teacher; without a budget there is nothing to meet. `about` holds
    what else the file shall say.
    """
    artefact = Artefact(folder, device)
    labels = np.asarray(test["labels"])
    logits, left = artefact.answers(test)
    accuracy = score(metric, logits, labels)
    model = reload(folder)
    simulated = predict(forward_of(model), batches_by_length(test))
    exits = exit_shares(left, len(model.layers)) if left else ()
    records = _time(artefact, reference, exits, model.config.vocab_size)
    own, teacher = records["export"], records.get("teacher", records["export"])
    figures = latency_figures(own, records.get("export/worst"))
    stored = {"size_mb": artefact.size_mb, "params": model.num_parameters()}
    limits = budget.model_dump(mode="json", exclude_none=True) if budget else None
    verification: dict[str, Any] = {
        "metric": metric,
        "accuracy": accuracy,
        "accuracy_standard_error": _standard_error(metric, accuracy, len(labels)),
        "teacher_accuracy": reference.accuracy if reference else accuracy,
        "test_examples": len(labels),
        **figures,
        "teacher_p50_ms": teacher.p50_ms,
        "speed_up": teacher.p50_ms / own.p50_ms,
        "budget": limits,
        "met": budget is None or budget.is_met(figures | stored, teacher.p50_ms),
        **stored,
        **({"exits": list(exits)} if exits else {}),
        "agreement_with_hugging_face": _agreement(logits, simulated),
        "latency": own.summary(),
        "teacher_latency": teacher.summary(),
        "environment": own.environment,
        **about,
    }
    write_json(folder / VERIFICATION_FILE, verification)
    return verification


def _time(
    artefact: Artefact, reference: Reference | None, exits: Sequence[float], rows: int
) -> dict[str, LatencyRecord]:
    """The export and the teacher, measured in turns in one process."""
    networks = {"export": artefact.network(early=bool(exits))}
    if reference:
        networks["teacher"] = Artefact(reference.folder, artefact.device).network()
    title = f"Measuring {artefact.folder.name}"
    early = {"export": exits} if exits else {}
    return measure_with_exits(artefact.device, networks, early, _ROUNDS, title, vocab_size=rows)


def _standard_error(metric: str, accuracy: float, examples: int) -> float | None:
    """Of a share of right answers; other metrics have no such simple one."""
    return math.sqrt(accuracy * (1.0 - accuracy) / examples) if metric == "accuracy" else None


def _agreement(first: np.ndarray, second: np.ndarray) -> float | None:
    """The share of equal predictions; none for a regression."""
    return float((first.argmax(axis=1) == second.argmax(axis=1)).mean()) if first.shape[1] > 1 else None
