"""Builds an `Evaluator` from the files of a run, or from arrays that were sent to a worker process.

`EvaluationRecipe` names the files, and `EvaluationParts` contains the arrays that are read from them. Each executor
gets a recipe. The Ray executor reads the files once, and sends the `EvaluationParts` to its workers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Dataset

from nas.data import TaskData
from nas.data.truth import drawn_rows, whole_groups
from nas.errors import DataError, SearchError
from nas.evaluate.accuracy import Evaluator
from nas.files import file_digest, read_json
from nas.model.precision import precision_name, uses_bf16
from nas.supernet import BertSupernet, SupernetWeights
from nas.tasks import Metric

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class EvaluationParts:
    """All data from which an evaluator is built. The arrays are never modified, so processes can share them."""

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    texts: pyarrow.Table
    metric: Metric
    bf16: bool
    by_confidence: bool = True

    def evaluator(self, threads: int | None = None, processor: str = "cpu") -> Evaluator:
        """Build the evaluator on a processor, `cpu` or `cuda`.

        `threads` is the number of threads that PyTorch uses in this process. None leaves the number unchanged.
        """
        if threads:
            torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            state = {name: torch.from_numpy(value).to(processor) for name, value in self.weights.items()}
        weights = SupernetWeights.with_state(self.config, state)
        supernet, texts = BertSupernet(weights), Dataset(self.texts)
        return Evaluator(
            supernet, texts, self.metric, bf16=self.bf16, processor=processor, by_confidence=self.by_confidence
        )


@dataclass(frozen=True)
class EvaluationRecipe:
    """The files and settings from which an evaluator is built."""

    supernet: Path
    data: Path
    metric: Metric
    examples: int | None = None
    least_tokens: int = 0
    bf16: bool = True
    weights: str | None = None
    """The digest that the supernet's weights must have. None accepts any weights."""
    by_confidence: bool = True
    """Whether candidates are compared by the probability of the right answer instead of the metric.

    This has no effect if the metric is not the share of right answers.
    """
    processor: str = "cpu"
    """The processor of the evaluator that `load` returns: `cpu` or `cuda`."""

    def load(self) -> Evaluator:
        """Build the evaluator in this process."""
        return self.read().evaluator(processor=self.processor)

    def precision(self, processor: str) -> str:
        """Return the number format (`float32` or `bf16`) in which candidates are computed on a processor."""
        hidden_size = read_json(self.supernet / "config.json", SearchError)["hidden_size"]
        return precision_name(self.bf16 and uses_bf16(hidden_size, processor))

    def read(self) -> EvaluationParts:
        """Read the weights and the search set.

        Raises `DataError` if no text has at least `least_tokens` tokens, and `SearchError` if the weights have changed
        (see `check`).
        """
        weights = SupernetWeights.from_pretrained(self.supernet)
        state = {name: value.numpy() for name, value in weights.state_dict().items()}
        self.check()
        texts = judged_by(TaskData.load(self.data).search, self.examples, self.least_tokens)
        table = texts.with_format("arrow")[:]
        return EvaluationParts(weights.config.to_dict(), state, table, self.metric, self.bf16, self.by_confidence)

    def check(self) -> None:
        """Raise `SearchError` if the supernet's weights do not have the expected digest."""
        if self.weights and (found := weights_digest(self.supernet)) != self.weights:
            raise SearchError(
                f"{self.supernet / _WEIGHTS}: the weights changed during a search that depends on them (digest "
                f"{self.weights}, now {found}); restore the earlier weights, or start a new search"
            )


def judged_by(split: Dataset, examples: int | None, least_tokens: int) -> Dataset:
    """Return the texts of the search set on which candidates are evaluated: those with at least `least_tokens` tokens.

    If `examples` is set, only about this many of these texts are drawn at random. Groups of texts that are scored
    together are not divided, so a group may include shorter texts. Raises `DataError` if no text has that many tokens.
    """
    long_enough = np.flatnonzero(np.asarray(split["length"]) >= least_tokens)
    if not len(long_enough):
        raise DataError(
            f"search.least_tokens: no text of the search set has {least_tokens} or more tokens (the longest has "
            f"{max(split['length'])}); lower search.least_tokens"
        )
    split = whole_groups(split, long_enough)
    return drawn_rows(split, examples) if examples and examples < len(split) else split


def weights_digest(supernet: Path) -> str:
    """Return the digest of the weights in a supernet's folder."""
    return file_digest(supernet / _WEIGHTS)
