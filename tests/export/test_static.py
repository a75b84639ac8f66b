"""The static model: a table of logits that a text takes the mean of, as its ONNX file gives it."""

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
    """Texts whose label is what the sum of their words says along some directions."""
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
class _Judged:
    """What a metric is to the model: a score of logits and labels."""

    score: Callable[[np.ndarray, np.ndarray], float]


SHARE = _Judged(lambda logits, labels: float((logits.argmax(axis=1) == labels).mean()))
CORRELATION = _Judged(lambda logits, labels: float(np.corrcoef(logits[:, 0], labels)[0, 1]))
EACH = _Judged(lambda logits, labels: float(((logits > 0) == (labels > 0.5)).mean()))


@pytest.mark.parametrize(
    ("kind", "judged", "outputs"),
    [("two", SHARE, 2), ("three", SHARE, 3), ("number", CORRELATION, 1), ("several", EACH, 3)],
)
def test_it_learns_what_averages_tell_and_its_file_says_the_same(kind, judged, outputs, vectors, tmp_path):
    train, search, test = (_split(count, seed, vectors, kind) for seed, count in enumerate((600, 200, 200), start=1))
    model = StaticModel.fit(vectors, train, search, judged)
    logits = model.logits(test)
    assert logits.shape == (200, outputs) and judged.score(logits, np.asarray(test["labels"])) > 0.93
    assert model.params == (WORDS + 1) * outputs
    model.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    served = [session.run(["logits"], {"input_ids": np.array([ids])})[0][0] for ids in test["input_ids"]]
    assert np.allclose(served, logits, rtol=1e-4, atol=1e-4)


def test_a_class_that_no_training_row_has_is_never_the_answer(vectors):
    train, search = (_split(300, seed, vectors, "three") for seed in (1, 2))
    kept = train.filter(lambda row: row["labels"] != 1)
    found = StaticModel.fit(vectors, kept, search, SHARE).logits(search)
    assert found.shape == (300, 3) and set(found.argmax(axis=1)) == {0, 2}
