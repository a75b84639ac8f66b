"""The sampling error of a metric: how far its value on a sample of texts may be from its expected value.

Accuracy floors, the final training and the verification of exports use this error.
"""

from __future__ import annotations

import warnings

import numpy as np

from nas.tasks import Metric

SELECTION_BIAS = 2.0
"""The number of standard errors by which the search set overestimates a network that was selected on this set.

The bias concerns the metric before the final training. On SST-2, the bias was 1.5 points of accuracy, and the standard
error was 0.7 points (studies/LOG.md, 2026-11-26). The bias grows with the noise of the metric on the search set. It is
therefore expressed in standard errors, so that one constant suits every metric and number of texts.
"""
_BOOTSTRAP_SAMPLES = 200


def standard_error(metric: Metric, logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the standard error of a metric on `logits` and `labels` of the same examples.

    If the metric is a mean over groups of texts, the error is computed from the scores of the groups, because the texts
    of a group are not independent. Otherwise, the error is a bootstrap estimate: the standard deviation of the metric
    over samples of the texts that are drawn with replacement (Efron, Annals of Statistics 7, 1979). The samples are the
    same in every call.
    """
    if metric.judges_groups:
        group_scores = metric.group_scores(logits, labels)
        return float(group_scores.std(ddof=1) / np.sqrt(len(group_scores))) if len(group_scores) > 1 else 0.0
    rng, count = np.random.default_rng(0), len(labels)
    draws = (rng.integers(0, count, count) for _ in range(_BOOTSTRAP_SAMPLES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sample of few texts may have only one label, for which metrics warn
        return float(np.std(metric.bootstrap_scores(logits, labels, draws), ddof=1))
