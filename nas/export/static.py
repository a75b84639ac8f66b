"""A static model of a task: a linear classifier on the average of the teacher's token embeddings.

It is a baseline that networks have to beat, since it has neither attention nor layers and is trained in seconds. The
average of a linear classifier's outputs for all embeddings equals its output for their average. The model is therefore
a table with a row of logits for each token. The pipeline fits the model, writes it as ONNX, and verifies it like an
export.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from onnx import TensorProto
from scipy.sparse import csr_matrix

from nas.data.files import values_of
from nas.data.truth import truth_of
from nas.graph import GraphBuilder, save
from nas.tasks import Metric

_PRODUCTS = 400_000
"""The largest product of training rows and classes. If it is exceeded, only a random part of the rows is used."""
_FEWEST = 5_000
"""The number of training rows that are used in any case, even if there are many classes."""
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""The inverse regularisation strengths that are tried; the best one on the search set is chosen."""
_ITERATIONS = 100
_NEVER = 1e3
"""The amount by which the logit of a class is lowered so that the class is never the most likely."""


@dataclass(frozen=True)
class StaticModel:
    """A table of logits for each token; the logits of a text are the mean over its tokens plus a bias."""

    table: np.ndarray
    """The logits of each token, (vocab_size, outputs)."""
    bias: np.ndarray
    """The bias of each output, (outputs,)."""

    @classmethod
    def fit(cls, vectors: np.ndarray, train: Dataset, search: Dataset, metric: Metric) -> StaticModel:
        """Fit a model to tokenised training rows, given token embeddings (vocab_size, width).

        The regularisation strength with the best score on the search set is used.
        """
        labels, outputs = np.asarray(values_of(train, "labels")), _outputs(train, search)
        most = max(_FEWEST, _PRODUCTS // outputs)
        rows = np.random.default_rng(0).permutation(len(labels))[:most]
        means = _shares(train, len(vectors))[rows] @ vectors
        centre, spread = means.mean(axis=0), np.maximum(means.std(axis=0), 1e-9)
        scaled, judged = (means - centre) / spread, _shares(search, len(vectors))
        found = [
            cls((vectors - centre) / spread @ weights, bias)
            for weights, bias in _classifiers(scaled, labels[rows], outputs)
        ]
        asked = truth_of(search)
        return max(found, key=lambda model: metric.score(model._of(judged), asked))

    def logits(self, split: Dataset) -> np.ndarray:
        """Return the logits of a tokenised split, (examples, outputs)."""
        return self._of(_shares(split, len(self.table)))

    def _of(self, shares: csr_matrix) -> np.ndarray:
        found: np.ndarray = shares @ self.table + self.bias
        return found

    @property
    def params(self) -> int:
        """The number of parameters: all entries of the table and the bias."""
        return self.table.size + self.bias.size

    def save(self, path: Path) -> None:
        """Write an ONNX file that computes `logits` from `input_ids`, (batch, sequence), without padding."""
        graph = GraphBuilder()
        ids = graph.input("input_ids", TensorProto.INT64, ("batch_size", "sequence_length"))
        rows = graph.add("Gather", graph.constant(self.table.astype(np.float32)), ids)
        mean = graph.add("ReduceMean", rows, graph.constant(np.array([1])), keepdims=0)
        logits = graph.add("Add", mean, graph.constant(self.bias.astype(np.float32)))
        graph.output(logits, "logits", ("batch_size", len(self.bias)))
        save(graph.model("static"), path)


def _outputs(*splits: Dataset) -> int:
    """Return the number of outputs: one per class, or per label if a text may have several, or 1 for a regression."""
    labels = [np.asarray(values_of(split, "labels")) for split in splits]
    if labels[0].ndim == 2:
        return labels[0].shape[1]
    if any(np.issubdtype(found.dtype, np.floating) for found in labels):
        return 1
    return 1 + max(int(found.max()) for found in labels)


def _shares(split: Dataset, vocab_size: int) -> csr_matrix:
    """Return the weight of each token in the mean of each text, (examples, vocab_size)."""
    texts = values_of(split, "input_ids")
    lengths = np.array([len(ids) for ids in texts])
    ends = np.concatenate([[0], lengths.cumsum()])
    values = np.repeat(1.0 / lengths, lengths)
    return csr_matrix((values, np.concatenate(texts), ends), shape=(len(texts), vocab_size))


def _classifiers(x: np.ndarray, labels: np.ndarray, outputs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weights (width, outputs) and bias (outputs,) of a linear classifier or regression for each strength."""
    for strength in _STRENGTHS:
        if labels.ndim == 2:
            several = [_classes(x, column > 0.5, 2, strength) for column in labels.T]
            # The logit of a label is the difference between the logits for and against it.
            yield (
                np.stack([weights[:, 1] - weights[:, 0] for weights, _ in several], axis=1),
                np.array([bias[1] - bias[0] for _, bias in several]),
            )
        elif outputs == 1:
            yield _line(x, labels, strength)
        else:
            yield _classes(x, labels, outputs, strength)


def _line(x: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import Ridge

    found: Any = Ridge(alpha=1.0 / strength).fit(x, labels)
    return found.coef_[:, None], np.atleast_1d(found.intercept_)


def _classes(x: np.ndarray, labels: np.ndarray, outputs: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias of a classifier; a class without training rows is never the most likely."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((x.shape[1], outputs)), np.full(outputs, -_NEVER)
    known = np.unique(labels).astype(int)
    if len(known) == 1:
        bias[known] = 0.0
        return weights, bias
    found: Any = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(x, labels)
    # For two classes scikit-learn returns a single row, which is their difference.
    signs = np.array([[-0.5], [0.5]]) if len(known) == 2 else np.ones((1, 1))
    weights[:, known] = (signs * found.coef_).T
    bias[known] = (signs * found.intercept_[None]).ravel()
    return weights, bias
