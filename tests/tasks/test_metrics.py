"""Metrics of classes by name, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from nas.study import Task
from nas.tasks import ClassMetric, task_kind


def _drawn(outputs, seed=0):
    """Logits and labels that agree more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, outputs, 300)
    return rng.standard_normal((300, outputs)) + 1.5 * np.eye(outputs)[labels], labels


def _metric(name, names, positive=None):
    task = Task(train="a.csv", test="b.csv", text=("text",), metric=name, positive=positive)
    return task_kind("classification").metric(task, names)


@pytest.mark.parametrize(
    ("name", "known"), [("f1", f1_score), ("precision", precision_score), ("recall", recall_score)]
)
def test_of_one_class_or_the_mean_over_all(name, known):
    logits, labels = _drawn(2)
    predictions = logits.argmax(axis=1)
    first, second = _metric(name, ("a", "b"), "a"), _metric(name, ("a", "b"))
    assert (first.label, second.label) == (f"{name} of 'a'", f"{name} of 'b'")
    assert first.score(logits, labels) == pytest.approx(known(labels, predictions, pos_label=0))
    assert second.score(logits, labels) == pytest.approx(known(labels, predictions))
    logits, labels = _drawn(3)
    every = _metric(name, ("a", "b", "c"))
    assert every.label == f"macro {name}"
    assert every.score(logits, labels) == pytest.approx(known(labels, logits.argmax(axis=1), average="macro"))


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("outputs", [2, 4])
def test_f1_by_its_average(average, outputs):
    logits, labels = _drawn(outputs)
    metric = _metric(f"f1_{average}", "abcd"[:outputs])
    assert metric.label == f"{average} f1" and metric.is_share == (average == "micro")
    assert metric.score(logits, labels) == pytest.approx(f1_score(labels, logits.argmax(axis=1), average=average))


def test_roc_auc_orders_texts_by_probability():
    logits, labels = _drawn(2)
    logits = (2 * logits).round() / 2  # with ties
    metric = _metric("roc_auc", ("a", "b"))
    assert metric.label == "roc_auc of 'b'" and metric.needs_float32 and not metric.is_share
    assert metric.score(logits, labels) == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    assert metric.score(1e4 * logits, labels) == pytest.approx(metric.score(logits, labels)), "not saturated"
    logits, labels = _drawn(4)
    macro, third = _metric("roc_auc", "abcd"), _metric("roc_auc", "abcd", "c")
    shares = softmax(logits, axis=1)
    assert macro.score(logits, labels) == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"))
    assert third.score(logits, labels) == pytest.approx(roc_auc_score(labels == 2, shares[:, 2]))


def test_a_class_without_texts_has_no_area():
    logits, labels = _drawn(3)
    known = labels < 2
    found = ClassMetric("roc_auc").score(logits[known], labels[known])
    shares = softmax(logits[known], axis=1)
    assert found == pytest.approx(
        np.mean([roc_auc_score(labels[known] == number, shares[:, number]) for number in (0, 1)])
    )
    assert ClassMetric("roc_auc", positive=0).score(logits[:3], np.zeros(3, int)) == 0.5
