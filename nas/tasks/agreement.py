"""The metric `agreement`, which compares the text similarities of a sentence encoder with those of its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nas.tasks.cosine import unit_vectors
from nas.tasks.metric import GROUP, Metric, in_groups
from nas.tasks.regression import correlation

_OFFSETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""The distances between the two texts of a pair, measured by their positions in the set."""
_SIMULATED_WIDTH = 64
"""The width of simulated embeddings."""


@dataclass(frozen=True)
class Agreement(Metric):
    """The metric `agreement`: Spearman's correlation between a network's text similarities and its teacher's.

    The similarity of two texts is the cosine of the angle between their embeddings. The function `pairs` selects the
    pairs of texts. Labels are records with the shape (texts,). The field `label` is the teacher's embedding of the
    text, with the shape (outputs,), and the field `group` is the number of the text.
    """

    note = (
        "The agreement is Spearman's correlation, over pairs of texts, between the cosine similarities of a network's "
        f"embeddings and those of the teacher's embeddings. There are {len(_OFFSETS)} pairs per text."
    )
    needs_float32 = True  # two similarities may differ by less than bf16 can represent
    least_size = 3

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        self.check_size(labels)
        return correlation("spearman", *_similarities(logits, labels))

    def bootstrap_scores(self, logits: np.ndarray, labels: np.ndarray, draws: Iterable[np.ndarray]) -> list[float]:
        """Return the score of each bootstrap sample. The samples consist of texts, not of pairs.

        If a sample contains the two texts of a pair m and n times, it contains the pair m times n times (Snijders and
        Borgatti, Connections 22, 1999). Pairs are not sampled independently, because each text belongs to several
        pairs.
        """
        first, second = pairs(labels)
        own, teacher = _similarities(logits, labels)
        scores = []
        for rows in draws:
            times = np.bincount(rows, minlength=len(labels))
            drawn = np.repeat(np.arange(len(first)), times[first] * times[second])
            scores.append(correlation("spearman", own[drawn], teacher[drawn]) if len(drawn) else 0.0)
        return scores

    def simulated_labels(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        embeddings = rng.standard_normal((len(labels), _SIMULATED_WIDTH))
        return in_groups(embeddings, labels[GROUP])

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return the teacher's embeddings with added noise, so that the agreement is about `share`.

        For embeddings with random directions, the agreement is 1 / (1 + r²), where r is the ratio of the length of the
        noise to the length of the embeddings.
        """
        teacher = unit_vectors(labels["label"])
        deviation = math.sqrt((1.0 / share - 1.0) / teacher.shape[1])
        noisy: np.ndarray = teacher + deviation * rng.standard_normal(teacher.shape)
        return noisy

    def assumption(self, share: float) -> str:
        return f"an agreement of {share:g}"


def pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers of the first texts and of the second texts of all pairs, both with the shape (pairs,).

    The texts are arranged in a circle, in the order of their numbers. Each text is paired with the texts that follow it
    at the distances `_OFFSETS`. Only distances below half the number of texts are used, so that no pair occurs twice.
    """
    order = np.argsort(labels[GROUP], kind="stable")
    seconds = [np.roll(order, -offset) for offset in _OFFSETS if 2 * offset < len(order)]
    no_rows = np.zeros(0, dtype=np.int64)
    return np.tile(order, len(seconds)), np.concatenate([no_rows, *seconds])


def _similarities(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine similarities of all pairs, first for the network's embeddings, then for the teacher's."""
    first, second = pairs(labels)
    own, teacher = unit_vectors(embeddings), unit_vectors(labels["label"])
    return (own[first] * own[second]).sum(axis=1), (teacher[first] * teacher[second]).sum(axis=1)
