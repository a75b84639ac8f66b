"""Computes the accuracy of networks: `predict` returns logits, and `Evaluator` evaluates candidates.

Executors call `Evaluator.evaluate` during a search. The final training and exports use `Evaluator` and `predict` for
networks that have their own weights instead of the supernet's.
"""

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
from nas.model.modeling import first_confident
from nas.model.precision import precision_name, uses_bf16
from nas.progress import tracked
from nas.supernet import BertSupernet
from nas.tasks import Metric
from nas.threads import side_by_side

_TITLE = "Accuracy on the search set"
RESULT_VERSION = 2
"""The version of the evaluation method.

Increase it when evaluations yield different accuracies than before, so that stored results are not reused.
"""


@dataclass(frozen=True)
class CandidateResult:
    """The result of evaluating one architecture."""

    architecture: Architecture
    accuracy: float
    """The task's metric on the search set, with weights inherited from the supernet."""
    examples: int
    """The number of texts that were evaluated."""
    seconds: float
    exits: tuple[float, ...] = ()
    """The share of texts that exit after each layer; empty if the network has no early exits."""
    complete: bool = True
    """Whether all texts were evaluated. If not, the evaluation was stopped early, and the accuracy is an estimate."""
    precision: str = "float32"
    """The number format of the computation, `float32` or `bf16`."""
    confidence: float | None = None
    """The mean probability of the right answer on the search set, or None if the search maximises the metric itself."""

    @property
    def objective(self) -> float:
        """The value that a search maximises: `confidence`, or `accuracy` if `confidence` is None."""
        return self.accuracy if self.confidence is None else self.confidence

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self) | {"architecture": self.architecture.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CandidateResult:
        """Create a result from a JSON object that `to_json` returned."""
        parsed = {"architecture": Architecture.from_json(value["architecture"]), "exits": tuple(value.get("exits", ()))}
        return cls(**value | parsed)


def predict(forward: Callable[[Batch], np.ndarray], batches: Iterable[Batch], title: str | None = None) -> np.ndarray:
    """Return the logits of all examples, in the order of the examples in the data set.

    The shape is (examples, num_labels) or, if each token has a label, (examples, tokens, num_labels). Logits after the
    last token of a text are zero. `forward` returns the logits of one batch. If `title` is set, a progress bar with
    this title is shown.
    """
    parts = [(batch.rows, forward(batch)) for batch in (tracked(list(batches), title) if title else batches)]
    stacked = _stacked([values for _, values in parts])
    logits = np.empty_like(stacked)
    logits[np.concatenate([rows for rows, _ in parts])] = stacked
    return logits


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the concatenated logits of several batches, padded with zeros to the same number of tokens."""
    sizes = [max(size) for size in zip(*(values.shape[1:] for values in parts), strict=True)]
    stacked = np.zeros((sum(map(len, parts)), *sizes), dtype=np.float32)
    start = 0
    for values in parts:
        stacked[(slice(start, start + len(values)), *map(slice, values.shape[1:]))] = values
        start += len(values)
    return stacked


def forward_of(
    model: Callable[..., Any], left_after: list[int] | None = None, processor: str = "cpu"
) -> Callable[[Batch], np.ndarray]:
    """Return a function that runs a torch model on a batch and returns the logits, for use with `predict`.

    If texts can exit the model early, the function appends to `left_after` the number of layers that each text passed
    through.
    """
    options = {} if left_after is None else {"details": True}

    @torch.inference_mode()
    def forward(batch: Batch) -> np.ndarray:
        output = model(**{name: value.to(processor) for name, value in batch.inputs.items()}, **options)
        if left_after is not None and output.left_after is not None:
            left_after.extend(output.left_after.tolist())
        logits: np.ndarray = output.logits.float().cpu().numpy()
        return logits

    return forward


def logits_of(model: nn.Module, texts: Dataset, title: str | None = None) -> np.ndarray:
    """Return a model's logits for tokenised texts, computed on the model's processor.

    `predict` describes the shape of the logits and the use of `title`.
    """
    processor = str(next(model.parameters()).device)
    return predict(forward_of(model.eval(), processor=processor), batches_by_length(texts), title)


class Evaluator:
    """Evaluates sub-networks of a supernet on one split of a data set.

    Three options make evaluations faster, and can be switched off to measure their effect:

    - `shared`: reuse the hidden states after the first layers, if successive candidates share these layers
    - `raced`: stop candidates that almost certainly cannot reach the objective to beat
    - `bf16`: compute in bf16 if that is faster

    If `by_confidence` is set, candidates are compared by the mean probability of the right answer, and the results
    include this probability. `by_confidence` has an effect only if the metric is the share of right answers.
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
        # Each batch holds texts of one length. The order is random, so that even a candidate that is stopped early is
        # evaluated on many lengths.
        self._order = np.random.default_rng(0).permutation(len(self.batches)).tolist()
        use_bf16 = bf16 and uses_bf16(supernet.weights.config.hidden_size, processor)
        self._dtype = torch.bfloat16 if use_bf16 else torch.float32
        self._by_confidence = by_confidence and metric.is_share
        # The first race compares objectives; the second one estimates the accuracies of candidates that are stopped.
        self._races = (Race(len(self.labels)), Race(len(self.labels))) if raced and metric.is_share else None

    def evaluate(self, architecture: Architecture, to_beat: float = 0.0) -> CandidateResult:
        """Evaluate an architecture with the weights that it inherits from the supernet.

        The evaluation stops early if it is almost certain that the objective will stay below `to_beat`.
        """
        started = time.monotonic()
        model = self.supernet.extract(architecture, copied=False)
        with self._inference_mode():
            for module in model.modules():
                if isinstance(module, BlockLinear):
                    module.freeze(self._dtype)
        outputs = self._outputs(model, architecture, to_beat)
        examples = len(outputs.rows)
        exits = exit_shares(outputs.left_after, len(model.layers)) if architecture.exit_threshold else ()
        seconds = round(time.monotonic() - started, 4)
        complete = examples == len(self.labels)
        accuracy, confidence = self._scores(outputs.logits, outputs.rows)
        return CandidateResult(architecture, accuracy, examples, seconds, exits, complete, self.precision, confidence)

    @property
    def precision(self) -> str:
        """The number format in which candidates are computed, `float32` or `bf16`."""
        return precision_name(self._dtype == torch.bfloat16)

    def network(self, architecture: Architecture) -> CompactBert:
        """Return the sub-network with this architecture on the CPU, with a separate copy of its weights."""
        model = self.supernet.extract(architecture)
        nn.Module.to(model, "cpu")
        return model

    def _outputs(self, model: CompactBert, architecture: Architecture, to_beat: float = 0.0) -> _Outputs:
        """Run an extracted model on the texts in random order, and return its outputs.

        If the evaluation is stopped early, the outputs cover only the texts that have been evaluated so far.
        """
        states = self.states or SharedStates(limit_bytes=0)
        states.begin(architecture)
        logits_by_batch, rows, values = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        left_after = list[int]()

        def compute_batch(number: int) -> tuple[np.ndarray, list[int]]:
            with self._inference_mode():
                logits, layers = _classify(model, states, number, self.batches[number], self.metric.needs_float32)
                return logits.float().cpu().numpy(), layers

        with side_by_side(compute_batch, self._order, 1 if self.processor != "cpu" else None) as results:
            for number, (logits, layers) in zip(self._order, results, strict=True):
                logits_by_batch.append(logits)
                left_after += layers
                rows.append(self.batches[number].rows)
                if self._races:
                    values.append(self._objective_values(logits, rows[-1]))
                    if to_beat and self._races[0].is_lost(np.concatenate(rows), np.concatenate(values), to_beat):
                        break
        outputs = _Outputs(_stacked(logits_by_batch), np.concatenate(rows), left_after)
        if self._races and len(outputs.rows) == len(self.labels):
            order, (race, accuracies) = np.argsort(outputs.rows), self._races
            race.add(np.concatenate(values)[order])
            accuracies.add(self.metric.is_correct(outputs.logits, self.labels[outputs.rows])[order])
        return outputs

    @contextmanager
    def _inference_mode(self) -> Iterator[None]:
        """Disable gradients and use the evaluator's precision. Both settings apply only to the calling thread."""
        with (
            torch.inference_mode(),
            torch.autocast(self.processor, self._dtype, enabled=self._dtype != torch.float32),
        ):
            yield

    def _objective_values(self, logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return a value from 0 to 1 for each row. The objective is the mean of these values."""
        score_rows = self.metric.confidence if self._by_confidence else self.metric.is_correct
        return score_rows(logits, self.labels[rows])

    def _scores(self, logits: np.ndarray, rows: np.ndarray) -> tuple[float, float | None]:
        """Return the metric and the confidence, which is None if candidates are not compared by confidence.

        If the evaluation was stopped early, both values are estimates.
        """
        if self._races and len(rows) < len(self.labels):
            race, accuracies = self._races
            accuracy, _ = accuracies.estimate(rows, self.metric.is_correct(logits, self.labels[rows]))
            objective, _ = race.estimate(rows, self._objective_values(logits, rows))
        else:
            accuracy = self.metric.score(logits, self.labels[rows])
            objective = float(self._objective_values(logits, rows).mean()) if self._by_confidence else accuracy
        return accuracy, objective if self._by_confidence else None

    def measure(self, model: CompactBert, title: str | None = None) -> tuple[float, tuple[float, ...]]:
        """Return the metric of a model, and the share of texts that exit after each layer.

        The model need not be a sub-network of the supernet. The shares are empty if the model has no early exits. The
        model is moved to the evaluator's processor, run in full precision, and moved back.
        """
        left_after: list[int] = []
        logits = self._logits_of(model, left_after, title)
        accuracy = self.metric.score(logits, self.labels)
        return accuracy, exit_shares(left_after, len(model.layers)) if left_after else ()

    def accuracy_of(self, model: CompactBert) -> float:
        """Return the metric of a model (see `measure`), and show a progress bar."""
        return self.measure(model, _TITLE)[0]

    def judged(self, model: CompactBert) -> tuple[float, float]:
        """Return the metric of a model (see `measure`) and its standard error, and show a progress bar."""
        logits = self._logits_of(model, [], _TITLE)
        return self.metric.score(logits, self.labels), standard_error(self.metric, logits, self.labels)

    def _logits_of(self, model: CompactBert, left_after: list[int], title: str | None) -> np.ndarray:
        original_device = model.device
        nn.Module.to(model, self.processor)
        try:
            return predict(forward_of(model, left_after, self.processor), self.batches, title)
        finally:
            nn.Module.to(model, original_device)


@dataclass(frozen=True)
class _Outputs:
    """The outputs of a network for some texts."""

    logits: np.ndarray
    """The logits: (examples, num_labels) or (examples, tokens, num_labels)."""
    rows: np.ndarray
    """The indices of the texts in the split, in the order of the logits."""
    left_after: list[int]
    """The number of layers that each text passed through; empty if the network has no early exits."""


def _classify(
    model: CompactBert, states: SharedStates, number: int, batch: Batch, in_float32: bool
) -> tuple[torch.Tensor, list[int]]:
    """Return the logits of a batch, and the number of layers that each text passed through.

    If the model has no early exits, the second result is an empty list, and `in_float32` decides whether the classifier
    runs in float32. If the model has early exits, `in_float32` is ignored, and the computation stops after the layer at
    which every text of the batch has exited.
    """
    threshold = model.config.exit_threshold
    if not threshold:
        hidden = states.run(model, number, batch)
        if in_float32:
            with torch.autocast(hidden.device.type, enabled=False):
                return model.classify(hidden.float()), []
        return model.classify(hidden), []
    exit_logits: list[torch.Tensor] = []
    is_active = torch.ones(len(batch.rows), dtype=torch.bool, device=batch.inputs["input_ids"].device)
    for depth, hidden in enumerate(states.after_each_layer(model, number, batch), start=1):
        if depth == len(model.layers):
            exit_logits.append(model.classify(hidden))
            break
        exit_logits.append(model.layers[depth - 1].exit(hidden[:, 0]))
        is_active &= exit_logits[-1].float().softmax(dim=-1).amax(dim=-1) < threshold
        if not is_active.any():
            break
    logits, left_after = first_confident(tuple(exit_logits), threshold)
    return logits, left_after.tolist()


def exit_shares(left_after: Sequence[int], layers: int) -> tuple[float, ...]:
    """Return the share of texts that exit after each layer of a network.

    `left_after` holds the number of layers that each text passed through, and `layers` is the number of layers of the
    network.
    """
    counts = np.bincount(left_after, minlength=layers + 1)[1:]
    return tuple((counts / len(left_after)).round(6).tolist())
