"""A static model of a task: averaged word vectors of the teacher with a linear classifier, made in seconds.

It is what a network has to beat: no attention, no layers. A linear classifier of a mean of vectors is the mean of what
it makes of each vector, so the model is a table with a row of logits for each token.
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
"""The classifier learns from so many training rows times classes at most, drawn at random."""
_FEWEST = 5_000
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Of the classifier's regularisation; the one that is best on the search set is taken."""
_ITERATIONS = 100
_NEVER = 1e3
"""A logit this far below the others never wins."""


@dataclass(frozen=True)
class StaticModel:
    """What each token adds to the logits of a text."""

    table: np.ndarray
    """(vocab_size, outputs), of which a text takes the mean over its tokens."""
    bias: np.ndarray
    """(outputs,)"""

    @classmethod
    def fit(cls, vectors: np.ndarray, train: Dataset, search: Dataset, metric: Metric) -> StaticModel:
        """Learn from tokenised training rows and word vectors (vocab_size, width); the search set chooses how strongly
        the classifier is regularised.
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
        """The logits of a tokenised split, (examples, outputs)."""
        return self._of(_shares(split, len(self.table)))

    def _of(self, shares: csr_matrix) -> np.ndarray:
        found: np.ndarray = shares @ self.table + self.bias
        return found

    @property
    def params(self) -> int:
        """The number of its numbers."""
        return self.table.size + self.bias.size

    def save(self, path: Path) -> None:
        """Write it as an ONNX file that reads `input_ids` (batch, sequence) without padding and gives `logits`."""
        graph = GraphBuilder()
        ids = graph.input("input_ids", TensorProto.INT64, ("batch_size", "sequence_length"))
        rows = graph.add("Gather", graph.constant(self.table.astype(np.float32)), ids)
        mean = graph.add("ReduceMean", rows, graph.constant(np.array([1])), keepdims=0)
        logits = graph.add("Add", mean, graph.constant(self.bias.astype(np.float32)))
        graph.output(logits, "logits", ("batch_size", len(self.bias)))
        save(graph.model("static"), path)


def _outputs(*splits: Dataset) -> int:
    """The number of classes or, where each text has a row of them, of labels; 1 for a regression's numbers."""
    labels = [np.asarray(values_of(split, "labels")) for split in splits]
    if labels[0].ndim == 2:
        return labels[0].shape[1]
    if any(np.issubdtype(found.dtype, np.floating) for found in labels):
        return 1
    return 1 + max(int(found.max()) for found in labels)


def _shares(split: Dataset, vocab_size: int) -> csr_matrix:
    """How much each token counts in the mean of each text: (examples, vocab_size)."""
    texts = values_of(split, "input_ids")
    lengths = np.array([len(ids) for ids in texts])
    ends = np.concatenate([[0], lengths.cumsum()])
    values = np.repeat(1.0 / lengths, lengths)
    return csr_matrix((values, np.concatenate(texts), ends), shape=(len(texts), vocab_size))


def _classifiers(x: np.ndarray, labels: np.ndarray, outputs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights (width, outputs) and bias (outputs,) of a linear classifier, or regression, at each strength."""
    for strength in _STRENGTHS:
        if labels.ndim == 2:
            several = [_classes(x, column > 0.5, 2, strength) for column in labels.T]
            # What is said for a label less what is said against it.
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
    """Those of so many classes; one that no row has is never the answer."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((x.shape[1], outputs)), np.full(outputs, -_NEVER)
    known = np.unique(labels).astype(int)
    if len(known) == 1:
        bias[known] = 0.0
        return weights, bias
    found: Any = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(x, labels)
    # Of two classes there is one row, which stands for their difference.
    signs = np.array([[-0.5], [0.5]]) if len(known) == 2 else np.ones((1, 1))
    weights[:, known] = (signs * found.coef_).T
    bias[known] = (signs * found.intercept_[None]).ravel()
    return weights, bias
