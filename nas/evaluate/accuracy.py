"""Accuracy of candidates: logits over a split, and the record of one evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from nas.architecture import Architecture
from nas.data import Batch, batches_by_length, score
from nas.evaluate.racing import Race
from nas.evaluate.shared import SharedStates
from nas.evaluate.threads import side_by_side
from nas.model import CompactBertForSequenceClassification
from nas.model.modeling import BlockLinear
from nas.model.precision import uses_bf16
from nas.progress import tracked
from nas.supernet import BertSupernet


@dataclass(frozen=True)
class CandidateResult:
    """What an evaluation found out about one architecture."""

    architecture: Architecture
    accuracy: float
    """The task's metric on the search set, with inherited weights."""
    examples: int
    seconds: float
    exits: tuple[float, ...] = ()
    """The shares of texts that leave after the first layer, the second and so on; none for a network without exits."""
    complete: bool = True
    """Whether all examples were evaluated; otherwise it had lost its race, and the accuracy is an estimate."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"architecture": self.architecture.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CandidateResult:
        """Read the JSON form."""
        given = {"architecture": Architecture.from_json(value["architecture"]), "exits": tuple(value.get("exits", ()))}
        return cls(**value | given)


def predict(forward: Callable[[Batch], np.ndarray], batches: Iterable[Batch], title: str | None = None) -> np.ndarray:
    """Logits (examples, num_labels) in the order of the examples. `forward` gives those of one batch.

    With a title, progress is shown.
    """
    parts = [(batch.rows, forward(batch)) for batch in (tracked(list(batches), title) if title else batches)]
    logits = np.zeros((sum(len(rows) for rows, _ in parts), parts[0][1].shape[1]), dtype=np.float32)
    for rows, values in parts:
        logits[rows] = values
    return logits


def forward_of(
    model: Callable[..., Any], left_after: list[int] | None = None, processor: str = "cpu"
) -> Callable[[Batch], np.ndarray]:
    """The forward function of a torch model on a processor for `predict`.

    `left_after` gets the number of layers that each text took, if the model can be left early.
    """

    @torch.inference_mode()
    def forward(batch: Batch) -> np.ndarray:
        output = model(**{name: value.to(processor) for name, value in batch.inputs.items()})
        if left_after is not None and output.left_after is not None:
            left_after.extend(output.left_after.tolist())
        logits: np.ndarray = output.logits.float().cpu().numpy()
        return logits

    return forward


class Evaluator:
    """Evaluates architectures of one supernet on one split.

    `shared`, `raced` and `bf16` can be switched off, to see what they bring.
    """

    def __init__(
        self,
        supernet: BertSupernet,
        split: Dataset,
        metric: str,
        shared: bool = True,
        raced: bool = True,
        bf16: bool = True,
        processor: str = "cpu",
    ) -> None:
        self.supernet = supernet
        self.metric = metric
        self.processor = processor
        self.batches = [batch.to(processor) for batch in batches_by_length(split)]
        self.labels = np.asarray(split["labels"])
        self.states = SharedStates() if shared else None
        # Batches hold texts of one length; whoever is stopped early shall have seen all kinds.
        self._order = np.random.default_rng(0).permutation(len(self.batches)).tolist()
        fast = bf16 and uses_bf16(supernet.weights.config.hidden_size, processor)
        self._dtype = torch.bfloat16 if fast else torch.float32
        self._race = Race(len(self.labels)) if raced and metric == "accuracy" else None

    def evaluate(self, architecture: Architecture, rival: float = 0.0) -> CandidateResult:
        """The architecture's metric with the weights that it inherits.

        One that cannot reach the accuracy `rival` is stopped as soon as that is sure.
        """
        started = time.monotonic()
        model = self.supernet.extract(architecture, copied=False)
        with self._computing():
            for module in model.modules():
                if isinstance(module, BlockLinear):
                    module.settle(self._dtype)
        if architecture.exit_threshold:
            with self._computing():
                accuracy, exits, rows = *self.measure(model), self.labels
        else:
            logits, rows = self._logits(model, architecture, rival)
            accuracy, exits = self._score(logits, rows), ()
        seconds = round(time.monotonic() - started, 4)
        return CandidateResult(architecture, accuracy, len(rows), seconds, exits, len(rows) == len(self.labels))

    def _logits(
        self, model: CompactBertForSequenceClassification, architecture: Architecture, rival: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits (examples, num_labels) and the rows that they are of: all, or those until the race was lost."""
        states = self.states or SharedStates(limit_bytes=0)
        states.begin(architecture)
        found, rows, right = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()

        def classified(number: int) -> np.ndarray:
            with self._computing():
                logits: np.ndarray = (
                    model.classify(states.run(model, number, self.batches[number])).float().cpu().numpy()
                )
            return logits

        with side_by_side(classified, self._order, 1 if self.processor != "cpu" else None) as results:
            for number, logits in zip(self._order, results, strict=True):
                found.append(logits)
                rows.append(self.batches[number].rows)
                if self._race:
                    right.append(self._right(logits, rows[-1]))
                    if rival and self._race.is_lost(np.concatenate(rows), np.concatenate(right), rival):
                        break
        seen = np.concatenate(rows)
        if self._race and len(seen) == len(self.labels):
            self._race.add(np.concatenate(right)[np.argsort(seen)])
        return np.concatenate(found), seen

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients and in the evaluator's precision; both belong to a thread."""
        with (
            torch.inference_mode(),
            torch.autocast(self.processor, self._dtype, enabled=self._dtype != torch.float32),
        ):
            yield

    def _right(self, logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """For each of some rows whether the likeliest class is the right one."""
        same: np.ndarray = logits.argmax(axis=1) == self.labels[rows]
        return same

    def _score(self, logits: np.ndarray, rows: np.ndarray) -> float:
        """The metric, estimated where rows are missing."""
        if self._race and len(rows) < len(self.labels):
            return self._race.estimate(rows, self._right(logits, rows))[0]
        return score(self.metric, logits, self.labels[rows])

    def measure(
        self, model: CompactBertForSequenceClassification, title: str | None = None
    ) -> tuple[float, tuple[float, ...]]:
        """The metric of a model with weights of its own, and the shares of texts that leave after each layer."""
        left: list[int] = []
        logits = predict(forward_of(model, left, self.processor), self.batches, title)
        accuracy = score(self.metric, logits, self.labels)
        return accuracy, exit_shares(left, len(model.layers)) if left else ()

    def accuracy_of(self, model: CompactBertForSequenceClassification) -> float:
        """The metric of a model with weights of its own, with progress shown."""
        return self.measure(model, "Accuracy on the search set")[0]


def exit_shares(left_after: Sequence[int], layers: int) -> tuple[float, ...]:
    """The shares of texts that leave after each of some layers."""
    counts = np.bincount(left_after, minlength=layers + 1)[1:]
    return tuple((counts / len(left_after)).round(6).tolist())
