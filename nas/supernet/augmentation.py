"""Augmentation of training texts: random tokens are replaced, and the teacher labels the changed texts.

A supernet that sees the same rows many times memorises them. With changed texts, it learns the teacher's function
instead, which is defined for any text.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from datasets import Dataset


class TokenReplacement:
    """A callable that replaces random tokens of a batch with tokens drawn at random from the training rows.

    For each text, the fraction of tokens to replace is drawn uniformly between 0 and twice `share`. Special tokens are
    never replaced. The result for a text depends only on the seed, the step and the text. A resumed training run, or
    one with several processes, therefore uses the same texts as an uninterrupted run in one process.
    """

    def __init__(self, train: Dataset, special: Collection[int], share: float, seed: int) -> None:
        ids = np.concatenate([np.asarray(row) for row in train["input_ids"]])
        self.special = np.asarray(sorted(special))
        self.pool = ids[~np.isin(ids, self.special)]
        self.share, self.seed = share, seed

    def __call__(self, inputs: dict[str, Any], step: int) -> dict[str, Any]:
        """Return `inputs`, the batch of this step, with some of its `input_ids` (batch, sequence) replaced."""
        ids: torch.Tensor = inputs["input_ids"]
        rows = ids.cpu().numpy().copy()
        for row in rows:
            replaceable = np.flatnonzero(~np.isin(row, self.special))
            rng = np.random.default_rng([self.seed, step, zlib.crc32(row[replaceable].tobytes())])
            chosen = replaceable[rng.random(len(replaceable)) < rng.uniform(0.0, 2.0 * self.share)]
            row[chosen] = rng.choice(self.pool, len(chosen))
        return inputs | {"input_ids": torch.from_numpy(rows).to(ids.device)}
