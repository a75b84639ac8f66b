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
from torch import nn

from nas.architecture import Architecture
from nas.data import Batch, batches_by_length, truth_of
from nas.evaluate.racing import Race
from nas.evaluate.shared import SharedStates
from nas.evaluate.spread import standard_error
from nas.model import CompactBert
from nas.model.layers import BlockLinear
from nas.model.modeling import first_sure
from nas.model.precision import precision_name, uses_bf16
from nas.progress import tracked
from nas.supernet import BertSupernet
from nas.tasks import Metric
from nas.threads import side_by_side

_TITLE = "Accuracy on the search set"
FORM = 2
"""To be raised when an evaluation finds other accuracies than before, so that older ones are not used again."""


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
    precision: str = "float32"
    """The number format that it was computed in, `float32` or `bf16`."""
    confidence: float | None = None
    """The mean probability of the right answer on the search set; None where the metric itself is searched for."""

    @property
    def objective(self) -> float:
        """What a search maximises."""
        return self.accuracy if self.confidence is None else self.confidence

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"architecture": self.architecture.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CandidateResult:
        """Read the JSON form."""
        given = {"architecture": Architecture.from_json(value["architecture"]), "exits": tuple(value.get("exits", ()))}
        return cls(**value | given)


def predict(forward: Callable[[Batch], np.ndarray], batches: Iterable[Batch], title: str | None = None) -> np.ndarray:
    """Logits in the order of the examples, (examples, num_labels), or (examples, tokens, num_labels) with zeros behind
    the tokens of a text.

    `forward` gives those of one batch. With a title, progress is shown.
    """
    parts = [(batch.rows, forward(batch)) for batch in (tracked(list(batches), title) if title else batches)]
    answers = _stacked([values for _, values in parts])
    logits = np.empty_like(answers)
    logits[np.concatenate([rows for rows, _ in parts])] = answers
    return logits


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The logits of several batches behind each other, with zeros where a batch has fewer tokens than others."""
    sizes = [max(size) for size in zip(*(values.shape[1:] for values in parts), strict=True)]
    found = np.zeros((sum(map(len, parts)), *sizes), dtype=np.float32)
    start = 0
    for values in parts:
        found[(slice(start, start + len(values)), *map(slice, values.shape[1:]))] = values
        start += len(values)
    return found


def forward_of(
    model: Callable[..., Any], left_after: list[int] | None = None, processor: str = "cpu"
) -> Callable[[Batch], np.ndarray]:
    """The forward function of a torch model on a processor for `predict`.

    `left_after` gets the number of layers that each text took, if texts can exit the model early.
    """
    asked = {} if left_after is None else {"details": True}

    @torch.inference_mode()
    def forward(batch: Batch) -> np.ndarray:
        output = model(**{name: value.to(processor) for name, value in batch.inputs.items()}, **asked)
        if left_after is not None and output.left_after is not None:
            left_after.extend(output.left_after.tolist())
        logits: np.ndarray = output.logits.float().cpu().numpy()
        return logits

    return forward


def logits_of(model: nn.Module, texts: Dataset, title: str | None = None) -> np.ndarray:
    """Logits (examples, num_labels) of a whole model for tokenised texts, on the processor where the model is.

    With a title, progress is shown.
    """
    processor = str(next(model.parameters()).device)
    return predict(forward_of(model.eval(), processor=processor), batches_by_length(texts), title)


class Evaluator:
    """Evaluates architectures of one supernet on one split.

    `shared`, `raced` and `bf16` can be switched off, to see what they bring. With `by_confidence` results tell the mean
    probability of the right answer too, where the metric is the share of these, and that is what candidates race by.
    """

    def __init__(  # noqa: PLR0913 (switches)
        self,
        supernet: BertSupernet,
        split: Dataset,
        metric: Metric,
        shared: bool = True,
        raced: bool = True,
        bf16: bool = True,
        processor: str = "cpu",
        by_confidence: bool = True,
    ) -> None:
        self.supernet = supernet
        self.metric = metric
        self.processor = processor
        self.batches = [batch.to(processor) for batch in batches_by_length(split)]
        self.labels = truth_of(split)
        self.states = SharedStates() if shared else None
        # Batches hold texts of one length; whoever is stopped early shall have seen all kinds.
        self._order = np.random.default_rng(0).permutation(len(self.batches)).tolist()
        fast = bf16 and uses_bf16(supernet.weights.config.hidden_size, processor)
        self._dtype = torch.bfloat16 if fast else torch.float32
        self._by_confidence = by_confidence and metric.is_share
        # The race itself, and what accuracy to expect of those that are stopped.
        self._races = (Race(len(self.labels)), Race(len(self.labels))) if raced and metric.is_share else None

    def evaluate(self, architecture: Architecture, rival: float = 0.0) -> CandidateResult:
        """The architecture's metric with the weights that it inherits.

        One whose objective cannot reach `rival` is stopped as soon as that is sure.
        """
        started = time.monotonic()
        model = self.supernet.extract(architecture, copied=False)
        with self._computing():
            for module in model.modules():
                if isinstance(module, BlockLinear):
                    module.settle(self._dtype)
        answers = self._answers(model, architecture, rival)
        seen = len(answers.rows)
        exits = exit_shares(answers.left_after, len(model.layers)) if architecture.exit_threshold else ()
        seconds = round(time.monotonic() - started, 4)
        complete = seen == len(self.labels)
        accuracy, confidence = self._scores(answers.logits, answers.rows)
        return CandidateResult(architecture, accuracy, seen, seconds, exits, complete, self.precision, confidence)

    @property
    def precision(self) -> str:
        """The number format that candidates are computed in, as results have it."""
        return precision_name(self._dtype == torch.bfloat16)

    def network(self, architecture: Architecture) -> CompactBert:
        """A sub-network with weights of its own, on the CPU."""
        model = self.supernet.extract(architecture)
        nn.Module.to(model, "cpu")
        return model

    def _answers(self, model: CompactBert, architecture: Architecture, rival: float = 0.0) -> _Answers:
        """What a model on shared weights answers to all texts, or to those until its race was lost."""
        states = self.states or SharedStates(limit_bytes=0)
        states.begin(architecture)
        found, left, rows, values = list[np.ndarray](), list[int](), list[np.ndarray](), list[np.ndarray]()

        def answered(number: int) -> tuple[np.ndarray, list[int]]:
            with self._computing():
                logits, layers = _classified(model, states, number, self.batches[number], self.metric.needs_float32)
                return logits.float().cpu().numpy(), layers

        with side_by_side(answered, self._order, 1 if self.processor != "cpu" else None) as results:
            for number, (logits, layers) in zip(self._order, results, strict=True):
                found.append(logits)
                left += layers
                rows.append(self.batches[number].rows)
                if self._races:
                    values.append(self._values(logits, rows[-1]))
                    if rival and self._races[0].is_lost(np.concatenate(rows), np.concatenate(values), rival):
                        break
        answers = _Answers(_stacked(found), np.concatenate(rows), left)
        if self._races and len(answers.rows) == len(self.labels):
            order, (race, accuracies) = np.argsort(answers.rows), self._races
            race.add(np.concatenate(values)[order])
            accuracies.add(self.metric.right(answers.logits, self.labels[answers.rows])[order])
        return answers

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients and in the evaluator's precision; both belong to a thread."""
        with (
            torch.inference_mode(),
            torch.autocast(self.processor, self._dtype, enabled=self._dtype != torch.float32),
        ):
            yield

    def _values(self, logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """For each of some rows the part of the objective that it has, from 0 to 1."""
        judge = self.metric.confidence if self._by_confidence else self.metric.right
        return judge(logits, self.labels[rows])

    def _scores(self, logits: np.ndarray, rows: np.ndarray) -> tuple[float, float | None]:
        """The metric, and the confidence if it is asked for; both are estimated where rows are missing."""
        if self._races and len(rows) < len(self.labels):
            race, accuracies = self._races
            accuracy, _ = accuracies.estimate(rows, self.metric.right(logits, self.labels[rows]))
            objective, _ = race.estimate(rows, self._values(logits, rows))
        else:
            accuracy = self.metric.score(logits, self.labels[rows])
            objective = float(self._values(logits, rows).mean()) if self._by_confidence else accuracy
        return accuracy, objective if self._by_confidence else None

    def measure(self, model: CompactBert, title: str | None = None) -> tuple[float, tuple[float, ...]]:
        """The metric of a model with weights of its own, and the shares of texts that leave after each layer.

        The model is computed on the evaluator's processor, in full precision, and then put back where it was.
        """
        left: list[int] = []
        logits = self._logits_of(model, left, title)
        accuracy = self.metric.score(logits, self.labels)
        return accuracy, exit_shares(left, len(model.layers)) if left else ()

    def accuracy_of(self, model: CompactBert) -> float:
        """The metric of a model with weights of its own, with progress shown."""
        return self.measure(model, _TITLE)[0]

    def judged(self, model: CompactBert) -> tuple[float, float]:
        """The same, and its standard error by resampling the texts."""
        logits = self._logits_of(model, [], _TITLE)
        return self.metric.score(logits, self.labels), standard_error(self.metric, logits, self.labels)

    def _logits_of(self, model: CompactBert, left: list[int], title: str | None) -> np.ndarray:
        before = model.device
        nn.Module.to(model, self.processor)
        try:
            return predict(forward_of(model, left, self.processor), self.batches, title)
        finally:
            nn.Module.to(model, before)


@dataclass(frozen=True)
class _Answers:
    """What a network said of some texts."""

    logits: np.ndarray
    """(examples, num_labels)"""
    rows: np.ndarray
    """The numbers of the texts, in the order of the logits."""
    left_after: list[int]
    """The number of layers that each text took; empty for a network without exits."""


def _classified(
    model: CompactBert, states: SharedStates, number: int, batch: Batch, in_float32: bool
) -> tuple[torch.Tensor, list[int]]:
    """Logits of a batch, from a head `in_float32` or not, and how many layers each text took if there are exits.

    Layers behind the one that the last text leaves after are not computed.
    """
    threshold = model.config.exit_threshold
    if not threshold:
        last = states.run(model, number, batch)
        if in_float32:
            with torch.autocast(last.device.type, enabled=False):
                return model.classify(last.float()), []
        return model.classify(last), []
    every: list[torch.Tensor] = []
    waiting = torch.ones(len(batch.rows), dtype=torch.bool, device=batch.inputs["input_ids"].device)
    for depth, state in enumerate(states.after_each_layer(model, number, batch), start=1):
        if depth == len(model.layers):
            every.append(model.classify(state))
            break
        every.append(model.layers[depth - 1].exit(state[:, 0]))
        waiting &= every[-1].float().softmax(dim=-1).amax(dim=-1) < threshold
        if not waiting.any():
            break
    logits, left_after = first_sure(tuple(every), threshold)
    return logits, left_after.tolist()


def exit_shares(left_after: Sequence[int], layers: int) -> tuple[float, ...]:
    """The shares of texts that leave after each of some layers."""
    counts = np.bincount(left_after, minlength=layers + 1)[1:]
    return tuple((counts / len(left_after)).round(6).tolist())
