"""How far a metric on some texts may be from its value on all texts of their kind."""

from __future__ import annotations

import warnings

import numpy as np

from nas.tasks import Metric

FLATTERED = 2.0
"""By so many standard errors of the metric the search set flatters a network that was chosen on it, before fine-tuning.

On SST-2, where one is 0.7 points of accuracy, it was 1.5 points (studies/LOG.md, 2026-11-26). What a choice gains by
luck grows with the noise of the metric on that set, so this holds for any metric and any number of texts.
"""
_DRAWS = 200


def standard_error(metric: Metric, logits: np.ndarray, labels: np.ndarray) -> float:
    """The standard error of a metric, from `logits` and `labels` of the same examples, as the metric takes them.

    That of a mean over groups of texts follows from their scores; the texts of a group are not independent. Any other
    is found by the bootstrap, which suits any metric: the spread of its values on texts drawn with replacement
    (Efron, Annals of Statistics 7, 1979). The same answers always give the same error.
    """
    if metric.judges_groups:
        each = metric.each(logits, labels)
        return float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 0.0
    rng, count = np.random.default_rng(0), len(labels)
    draws = (rng.integers(0, count, count) for _ in range(_DRAWS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # samples of few texts may have one label only, and a metric of 0
        return float(np.std(metric.resampled(logits, labels, draws), ddof=1))
