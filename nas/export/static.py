"""The static model, a baseline: a linear classifier or regression on the mean token embedding of a text.

The token embeddings are the teacher's. The model has neither attention nor layers and is trained in seconds, so
exported networks should be more accurate. Because the model is linear, its logits for a mean of embeddings are the mean
of its logits for the embeddings. The model is therefore stored as a table with one row of logits per token. The
pipeline fits the model, writes it as an ONNX file, and verifies the file like an export.
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

_MAX_PRODUCTS = 400_000
"""The largest product of the number of training rows and the number of outputs. If a task exceeds this limit, a random
sample of the training rows is used.
"""
_FEWEST_ROWS = 5_000
"""The smallest sample of training rows, even if a larger sample exceeds `_MAX_PRODUCTS`."""
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""The values that are tried as the inverse regularisation strength. The value with the best score on the search set is
used.
"""
_MAX_ITERATIONS = 100
_IMPOSSIBLE_LOGIT = 1e3
"""The bias of a class without training rows is minus this value, so that the class is never the most likely one."""


@dataclass(frozen=True)
class StaticModel:
    """A linear classifier or regression. A text's logits are the mean of its tokens' rows in `table`, plus `bias`."""

    table: np.ndarray
    """The logits of each token, (vocab_size, outputs)."""
    bias: np.ndarray
    """The bias of each output, (outputs,)."""

    @classmethod
    def fit(cls, vectors: np.ndarray, train: Dataset, search: Dataset, metric: Metric) -> StaticModel:
        """Fit a model to the tokenised training rows `train`.

        `vectors` holds the token embeddings, (vocab_size, width). The regularisation strength is the one in
        `_STRENGTHS` with the best score on the search set `search`.
        """
        labels, outputs = np.asarray(values_of(train, "labels")), _count_outputs(train, search)
        most_rows = max(_FEWEST_ROWS, _MAX_PRODUCTS // outputs)
        rows = np.random.default_rng(0).permutation(len(labels))[:most_rows]
        means = _token_weights(train, len(vectors))[rows] @ vectors
        centre, deviations = means.mean(axis=0), np.maximum(means.std(axis=0), 1e-9)
        scaled_means, search_weights = (means - centre) / deviations, _token_weights(search, len(vectors))
        models = [
            cls((vectors - centre) / deviations @ weights, bias)
            for weights, bias in _fit_for_each_strength(scaled_means, labels[rows], outputs)
        ]
        truth = truth_of(search)
        return max(models, key=lambda model: metric.score(model._logits(search_weights), truth))

    def logits(self, split: Dataset) -> np.ndarray:
        """Return the logits of a tokenised split, (examples, outputs)."""
        return self._logits(_token_weights(split, len(self.table)))

    def _logits(self, token_weights: csr_matrix) -> np.ndarray:
        logits: np.ndarray = token_weights @ self.table + self.bias
        return logits

    @property
    def params(self) -> int:
        """The number of parameters: the entries of the table and of the bias."""
        return self.table.size + self.bias.size

    def save(self, path: Path) -> None:
        """Write the model as an ONNX file, which computes `logits` (batch, outputs) from `input_ids` (batch, sequence).

        The ONNX file does not support padding.
        """
        graph = GraphBuilder()
        ids = graph.input("input_ids", TensorProto.INT64, ("batch_size", "sequence_length"))
        rows = graph.add("Gather", graph.constant(self.table.astype(np.float32)), ids)
        mean = graph.add("ReduceMean", rows, graph.constant(np.array([1])), keepdims=0)
        logits = graph.add("Add", mean, graph.constant(self.bias.astype(np.float32)))
        graph.output(logits, "logits", ("batch_size", len(self.bias)))
        save(graph.model("static"), path)


def _count_outputs(*splits: Dataset) -> int:
    """Return the number of outputs: the number of classes or labels, or 1 for a regression."""
    labels = [np.asarray(values_of(split, "labels")) for split in splits]
    if labels[0].ndim == 2:
        return labels[0].shape[1]
    if any(np.issubdtype(values.dtype, np.floating) for values in labels):
        return 1
    return 1 + max(int(values.max()) for values in labels)


def _token_weights(split: Dataset, vocab_size: int) -> csr_matrix:
    """Return the relative frequency of each token in each text, (examples, vocab_size)."""
    texts = values_of(split, "input_ids")
    lengths = np.array([len(ids) for ids in texts])
    ends = np.concatenate([[0], lengths.cumsum()])
    values = np.repeat(1.0 / lengths, lengths)
    return csr_matrix((values, np.concatenate(texts), ends), shape=(len(texts), vocab_size))


def _fit_for_each_strength(x: np.ndarray, labels: np.ndarray, outputs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fit a linear classifier or regression for each regularisation strength.

    Yields the weights (width, outputs) and the bias (outputs,) of each fit.
    """
    for strength in _STRENGTHS:
        if labels.ndim == 2:
            classifiers = [_fit_classifier(x, column > 0.5, 2, strength) for column in labels.T]
            # The logit of a label is the difference between the logits for and against it.
            yield (
                np.stack([weights[:, 1] - weights[:, 0] for weights, _ in classifiers], axis=1),
                np.array([bias[1] - bias[0] for _, bias in classifiers]),
            )
        elif outputs == 1:
            yield _fit_regression(x, labels, strength)
        else:
            yield _fit_classifier(x, labels, outputs, strength)


def _fit_regression(x: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import Ridge

    model: Any = Ridge(alpha=1.0 / strength).fit(x, labels)
    return model.coef_[:, None], np.atleast_1d(model.intercept_)


def _fit_classifier(x: np.ndarray, labels: np.ndarray, outputs: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (width, outputs) and the bias (outputs,) of a classifier.

    A class without training rows is never the most likely class.
    """
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((x.shape[1], outputs)), np.full(outputs, -_IMPOSSIBLE_LOGIT)
    known_classes = np.unique(labels).astype(int)
    if len(known_classes) == 1:
        bias[known_classes] = 0.0
        return weights, bias
    model: Any = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS).fit(x, labels)
    # For two classes, scikit-learn returns a single row: the difference between the rows of the two classes.
    signs = np.array([[-0.5], [0.5]]) if len(known_classes) == 2 else np.ones((1, 1))
    weights[:, known_classes] = (signs * model.coef_).T
    bias[known_classes] = (signs * model.intercept_[None]).ravel()
    return weights, bias
