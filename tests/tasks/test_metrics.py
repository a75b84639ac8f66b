"""The metrics of a classification agree with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from nas.study import Task
from nas.tasks import ClassMetric, task_kind


def _random_answers(outputs, seed=0):
    """Return random logits and labels, which agree more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, outputs, 300)
    return rng.standard_normal((300, outputs)) + 1.5 * np.eye(outputs)[labels], labels


def _metric(name, names, positive=None):
    task = Task(train="a.csv", test="b.csv", text=("text",), metric=name, positive=positive)
    return task_kind("classification").metric(task, names)


@pytest.mark.parametrize(
    ("name", "reference"), [("f1", f1_score), ("precision", precision_score), ("recall", recall_score)]
)
def test_f1_precision_and_recall_are_of_one_class_or_the_mean_over_all(name, reference):
    logits, labels = _random_answers(2)
    predictions = logits.argmax(axis=1)
    first, second = _metric(name, ("a", "b"), "a"), _metric(name, ("a", "b"))
    assert (first.label, second.label) == (f"{name} of 'a'", f"{name} of 'b'")
    assert first.score(logits, labels) == pytest.approx(reference(labels, predictions, pos_label=0))
    assert second.score(logits, labels) == pytest.approx(reference(labels, predictions))
    logits, labels = _random_answers(3)
    every = _metric(name, ("a", "b", "c"))
    assert every.label == f"macro {name}"
    assert every.score(logits, labels) == pytest.approx(reference(labels, logits.argmax(axis=1), average="macro"))


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("outputs", [2, 4])
def test_f1_macro_and_f1_micro_agree_with_scikit_learn(average, outputs):
    logits, labels = _random_answers(outputs)
    metric = _metric(f"f1_{average}", "abcd"[:outputs])
    assert metric.label == f"{average} f1" and metric.is_share == (average == "micro")
    assert metric.score(logits, labels) == pytest.approx(f1_score(labels, logits.argmax(axis=1), average=average))


def test_roc_auc_agrees_with_scikit_learn_also_for_ties_and_large_logits():
    logits, labels = _random_answers(2)
    logits = (2 * logits).round() / 2  # with ties
    metric = _metric("roc_auc", ("a", "b"))
    assert metric.label == "roc_auc of 'b'" and metric.needs_float32 and not metric.is_share
    assert metric.score(logits, labels) == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    assert metric.score(1e4 * logits, labels) == pytest.approx(metric.score(logits, labels)), "not saturated"
    logits, labels = _random_answers(4)
    macro, third = _metric("roc_auc", "abcd"), _metric("roc_auc", "abcd", "c")
    shares = softmax(logits, axis=1)
    assert macro.score(logits, labels) == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"))
    assert third.score(logits, labels) == pytest.approx(roc_auc_score(labels == 2, shares[:, 2]))


def test_roc_auc_leaves_out_classes_without_texts():
    logits, labels = _random_answers(3)
    present = labels < 2
    found = ClassMetric("roc_auc").score(logits[present], labels[present])
    shares = softmax(logits[present], axis=1)
    assert found == pytest.approx(
        np.mean([roc_auc_score(labels[present] == number, shares[:, number]) for number in (0, 1)])
    )
    assert ClassMetric("roc_auc", positive=0).score(logits[:3], np.zeros(3, int)) == 0.5
