"""The static model: a table with one row of logits per token, whose mean over a text is the text's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
from datasets import Dataset

from nas.export.static import StaticModel

WORDS, WIDTH = 40, 12


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((WORDS, WIDTH))


def _split(count, seed, vectors, kind):
    """Return texts whose labels depend on the projections of the mean of their word vectors on some directions."""
    rng, directions = np.random.default_rng(seed), np.random.default_rng(9).standard_normal((WIDTH, 3))
    texts = [rng.integers(0, WORDS, rng.integers(3, 9)).tolist() for _ in range(count)]
    along = np.array([vectors[text].mean(axis=0) for text in texts]) @ directions
    if kind == "several":
        labels = (along > 0).astype(float).tolist()
        return Dataset.from_dict({"input_ids": texts, "length": [len(text) for text in texts], "labels": labels})
    labels = {"two": along[:, 0] > 0, "three": along.argmax(axis=1), "number": along[:, 0]}[kind]
    labels = labels.tolist() if kind == "number" else labels.astype(int).tolist()
    return Dataset.from_dict({"input_ids": texts, "length": [len(text) for text in texts], "labels": labels})


@dataclass(frozen=True)
class _Metric:
    """The only part of a task's scoring that the model uses."""

    score: Callable[[np.ndarray, np.ndarray], float]


SHARE = _Metric(lambda logits, labels: float((logits.argmax(axis=1) == labels).mean()))
CORRELATION = _Metric(lambda logits, labels: float(np.corrcoef(logits[:, 0], labels)[0, 1]))
EACH = _Metric(lambda logits, labels: float(((logits > 0) == (labels > 0.5)).mean()))


@pytest.mark.parametrize(
    ("kind", "metric", "outputs"),
    [("two", SHARE, 2), ("three", SHARE, 3), ("number", CORRELATION, 1), ("several", EACH, 3)],
)
def test_the_model_learns_from_means_and_its_file_gives_the_same_logits(kind, metric, outputs, vectors, tmp_path):
    train, search, test = (_split(count, seed, vectors, kind) for seed, count in enumerate((600, 200, 200), start=1))
    model = StaticModel.fit(vectors, train, search, metric)
    logits = model.logits(test)
    assert logits.shape == (200, outputs) and metric.score(logits, np.asarray(test["labels"])) > 0.93
    assert model.params == (WORDS + 1) * outputs
    model.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    served = [session.run(["logits"], {"input_ids": np.array([ids])})[0][0] for ids in test["input_ids"]]
    assert np.allclose(served, logits, rtol=1e-4, atol=1e-4)


def test_a_class_without_training_rows_is_never_predicted(vectors):
    train, search = (_split(300, seed, vectors, "three") for seed in (1, 2))
    kept = train.filter(lambda row: row["labels"] != 1)
    found = StaticModel.fit(vectors, kept, search, SHARE).logits(search)
    assert found.shape == (300, 3) and set(found.argmax(axis=1)) == {0, 2}
