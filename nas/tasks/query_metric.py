"""Metrics that are averaged over queries: the common part of `RankingMetric` and `RetrievalMetric`.

The score of each query is computed by the program trec_eval, which is called through the package pytrec_eval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nas.tasks.metric import Metric

CUTOFF = 10
"""The number of top-ranked passages per query that ndcg@10 and mrr@10 take into account."""
NDCG = f"ndcg_cut_{CUTOFF}"
"""The name of ndcg@10 in the results of trec_eval."""


@dataclass(frozen=True)
class QueryMetric(Metric):
    """A metric that averages a score per query over all queries with a relevant passage.

    Subclasses compute these scores in `group_scores`.
    """

    size_word = "queries with a relevant passage"
    judges_groups = True
    needs_float32 = True  # two passages may differ by less than bf16 can represent
    least_size = 2

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        scores = self.group_scores(logits, labels)
        return float(scores.mean()) if len(scores) else 0.0


def trec_eval(
    measure: str, grades: Mapping[str, Mapping[str, int]], outputs: Mapping[str, Mapping[str, float]]
) -> np.ndarray:
    """Return the score of each query in `grades`, with the shape (queries,).

    `measure` is a name in the results of trec_eval. For each query, `grades` maps the names of passages to their grades
    of relevance, and `outputs` maps them to the scores of a network.
    """
    from pytrec_eval import RelevanceEvaluator

    requested = measure.replace(f"_{CUTOFF}", f".{CUTOFF}")
    results = RelevanceEvaluator(grades, {requested}).evaluate(outputs)
    return np.array([results[query][measure] for query in grades])
