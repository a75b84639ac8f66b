"""How an evaluator is made: from files on this machine, or from arrays that processes of any machine share."""

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
    """What an evaluator is made of, as arrays that it only reads: they travel, and processes can share them."""

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    texts: pyarrow.Table
    metric: Metric
    bf16: bool
    by_confidence: bool = True

    def evaluator(self, threads: int | None = None, processor: str = "cpu") -> Evaluator:
        """The evaluator on a processor. With `threads`, also bounds this process's torch threads."""
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
    """Where an evaluator's parts lie."""

    supernet: Path
    data: Path
    metric: Metric
    examples: int | None = None
    least_tokens: int = 0
    bf16: bool = True
    weights: str | None = None
    """The digest of the supernet's weights that all results shall rest on; whatever is there if left out."""
    by_confidence: bool = True
    """Whether candidates are compared by the probability of the right answer where the metric is accuracy."""
    processor: str = "cpu"
    """Where the evaluator computes if it is made by `load`: `cpu` or `cuda`."""

    def load(self) -> Evaluator:
        """The evaluator, in this process."""
        return self.read().evaluator(processor=self.processor)

    def precision(self, processor: str) -> str:
        """The number format that candidates are computed in on a processor of this machine."""
        hidden_size = read_json(self.supernet / "config.json", SearchError)["hidden_size"]
        return precision_name(self.bf16 and uses_bf16(hidden_size, processor))

    def read(self) -> EvaluationParts:
        """Read weights and search set. Raises `DataError` if no text is long enough; else see `check`."""
        weights = SupernetWeights.from_pretrained(self.supernet)
        state = {name: value.numpy() for name, value in weights.state_dict().items()}
        self.check()
        texts = self._texts().with_format("arrow")[:]
        return EvaluationParts(weights.config.to_dict(), state, texts, self.metric, self.bf16, self.by_confidence)

    def _texts(self) -> Dataset:
        return judged_by(TaskData.load(self.data).search, self.examples, self.least_tokens)

    def check(self) -> None:
        """Raise `SearchError` if the supernet's weights are no longer those that results shall rest on."""
        if self.weights and (found := weights_digest(self.supernet)) != self.weights:
            raise SearchError(
                f"{self.supernet / _WEIGHTS}: changed while a search rests on it ({self.weights}, now {found}); put "
                "the weights back, or search anew"
            )


def judged_by(split: Dataset, examples: int | None, least_tokens: int) -> Dataset:
    """The texts of the search set by which candidates are judged. Raises `DataError` if no text is long enough.

    Groups of texts that are judged together stay whole.
    """
    long_enough = np.flatnonzero(np.asarray(split["length"]) >= least_tokens)
    if not len(long_enough):
        raise DataError(
            f"search.least_tokens: no text of the search set has {least_tokens} tokens, the longest has "
            f"{max(split['length'])}; lower it"
        )
    split = whole_groups(split, long_enough)
    return drawn_rows(split, examples) if examples and examples < len(split) else split


def weights_digest(supernet: Path) -> str:
    """The digest of a supernet's weights."""
    return file_digest(supernet / _WEIGHTS)
