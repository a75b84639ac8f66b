"""The metric `ndcg@10` of sentence encoders, which measures how well embeddings find relevant passages in a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.tasks.cosine import unit_vectors
from nas.tasks.metric import GROUP
from nas.tasks.query_metric import CUTOFF, NDCG, QueryMetric, trec_eval

_MOST_SIMILARITIES = 2**24
"""The largest number of similarities that are in memory at the same time."""
_DECIMALS = 6
"""Similarities are rounded to this number of decimals, because further decimals contain rounding errors of float32."""
_SIMULATED_WIDTH = 256
"""The width of simulated embeddings. Random vectors of this width are nearly orthogonal."""


def passage_group(number: int) -> int:
    """Return the value of `GROUP` for a passage. It is negative, which marks rows that belong to every query."""
    return -1 - number


@dataclass(frozen=True)
class RetrievalMetric(QueryMetric):
    """The metric `ndcg@10` for ranking all passages of a corpus, averaged over queries with a relevant passage.

    Each row is one text, which is either a query or a passage. Labels are records with the shape (rows,). For a
    passage, `group` is the value of `passage_group`. For a query, `group` is the number of the query, and `label` is a
    list with a pair for each relevant passage: the group and the grade of the passage. A passage without a grade is
    treated as not relevant.
    """

    note = (
        "For ndcg@10, all passages of a set are ranked by the cosine similarity between their embeddings and the "
        "embedding of the query. The search set may contain the same passages as the test set, but with other queries."
    )

    def size(self, labels: np.ndarray) -> int:
        return len(_scored_rows(labels))

    def group_scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the scores of the queries that have a relevant passage, with the shape (queries,)."""
        queries, passages = _scored_rows(labels), np.flatnonzero(labels[GROUP] < 0)
        grades = [dict(labels["label"][row]) for row in queries]
        return ndcg_at_10(logits[queries], logits[passages], labels[GROUP][passages], grades)

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return simulated embeddings with the shape (rows, width).

        About a `share` of the queries get embeddings that rank passages perfectly. All passages and all other queries
        get embeddings with random directions.
        """
        embeddings = unit_vectors(rng.standard_normal((len(labels), _SIMULATED_WIDTH), dtype=np.float32))
        row_of_group = {group: row for row, group in enumerate(labels[GROUP].tolist())}
        for row in _scored_rows(labels):
            if rng.random() < share:
                best = sorted(labels["label"][row], key=lambda judged: -judged[1])[:CUTOFF]
                found = [(grade, row_of_group[group]) for group, grade in best if group in row_of_group]
                embeddings[row] = sum(grade * embeddings[passage] for grade, passage in found)
        return embeddings

    def assumption(self, share: float) -> str:
        return f"that {share:.0%} of the queries are answered perfectly"

    def label_counts(self, labels: np.ndarray) -> dict[str, int]:
        queries, scored = int((labels[GROUP] >= 0).sum()), _scored_rows(labels)
        return {
            "passages": len(labels) - queries,
            "queries": queries,
            "queries without a relevant passage, which the metric ignores": queries - len(scored),
            "pairs of a query and a relevant passage": sum(len(labels["label"][row]) for row in scored),
        }


def ndcg_at_10(
    queries: np.ndarray, passages: np.ndarray, numbers: np.ndarray, grades: Sequence[Mapping[int, int]]
) -> np.ndarray:
    """Return the nDCG@10 of each query, computed by trec_eval, with the shape (queries,).

    `queries` and `passages` are embeddings of the shape (texts, outputs). Passages are ranked by cosine similarity.
    `numbers` identifies each passage and has the shape (passages,). `grades` holds one mapping per query, from the
    numbers of relevant passages to their grades.
    """
    if not len(queries) or not len(passages):
        return np.zeros(len(queries))
    # Passages with equal similarities are in random order, because relevant passages may come first in the data. This
    # order does not depend on the order of the rows.
    order = np.argsort(numbers)[np.random.default_rng(0).permutation(len(numbers))]
    corpus, names = unit_vectors(passages[order]), [str(number) for number in numbers[order]]
    found: dict[str, dict[str, float]] = {}
    step = max(1, _MOST_SIMILARITIES // len(corpus))
    for start in range(0, len(queries), step):
        similarities = np.round(unit_vectors(queries[start : start + step]) @ corpus.T, _DECIMALS)
        for query, best in enumerate(_largest(similarities, CUTOFF), start):
            # trec_eval sorts by score in float32, in which these ranks are exact.
            found[str(query)] = {names[passage]: float(-rank) for rank, passage in enumerate(best)}
    relevant = {
        str(query): {str(number): grade for number, grade in grades_of_query.items()}
        for query, grades_of_query in enumerate(grades)
    }
    return trec_eval(NDCG, relevant, found)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the column indices of the `count` largest values in each row, largest first.

    If there are fewer columns than `count`, return the indices of all columns. The shape is (rows, indices).
    """
    count = min(count, values.shape[1])
    columns = np.sort(np.argpartition(-values, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(values, columns, axis=1), axis=1, kind="stable")
    largest: np.ndarray = np.take_along_axis(columns, order, axis=1)
    return largest


def _scored_rows(labels: np.ndarray) -> list[int]:
    """Return the row numbers of the queries that have a relevant passage."""
    records = zip(labels[GROUP].tolist(), labels["label"], strict=True)
    return [row for row, (group, judged) in enumerate(records) if group >= 0 and len(judged)]
