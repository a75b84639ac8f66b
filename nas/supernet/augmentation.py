"""Texts that are no training rows: some tokens of a batch are replaced at random, and the teacher says what comes out.

A supernet that sees the same rows many times learns them by heart; what it is to learn is the teacher's function, which
is defined for any text.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from datasets import Dataset


class TokenReplacement:
    """Replaces tokens by others from the training rows, as often as they occur there.

    How many of a text's tokens are replaced is drawn between none and twice `share`; special tokens stay. What happens
    to a text depends on the seed, the step and the text alone: a resumed training goes on alike, and processes that
    share a batch do what one would.
    """

    def __init__(self, train: Dataset, special: Collection[int], share: float, seed: int) -> None:
        ids = np.concatenate([np.asarray(row) for row in train["input_ids"]])
        self.special = np.asarray(sorted(special))
        self.pool = ids[~np.isin(ids, self.special)]
        self.share, self.seed = share, seed

    def __call__(self, inputs: dict[str, Any], step: int) -> dict[str, Any]:
        """The batch of a step with some of its `input_ids` (batch, sequence) replaced."""
        given: torch.Tensor = inputs["input_ids"]
        rows = given.cpu().numpy().copy()
        for row in rows:
            words = np.flatnonzero(~np.isin(row, self.special))
            rng = np.random.default_rng([self.seed, step, zlib.crc32(row[words].tobytes())])
            chosen = words[rng.random(len(words)) < rng.uniform(0.0, 2.0 * self.share)]
            row[chosen] = rng.choice(self.pool, len(chosen))
        return inputs | {"input_ids": torch.from_numpy(rows).to(given.device)}
