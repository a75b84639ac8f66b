"""How far a metric on some texts may be from its value on all texts of their kind."""

from __future__ import annotations

import warnings

import numpy as np

from nas.tasks import Metric

_DRAWS = 200


def standard_error(metric: Metric, logits: np.ndarray, labels: np.ndarray) -> float:
    """The standard error of a metric, from `logits` (examples, num_labels) and `labels` (examples,).

    Found by the bootstrap, which suits any metric: the spread of its values on texts drawn with replacement
    (Efron, Annals of Statistics 7, 1979). The same answers always give the same error.
    """
    rng, count = np.random.default_rng(0), len(labels)
    draws = (rng.integers(0, count, count) for _ in range(_DRAWS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # samples of few texts may have one label only, and a metric of 0
        return float(np.std([metric.score(logits[rows], labels[rows]) for rows in draws], ddof=1))
