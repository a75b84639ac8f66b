"""The order in which a training meets its texts where groups of them are compared within a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

_TOGETHER = 8
"""At most so many texts of a group come together: of more, those of like length do. Whole groups of WikiQA would be
padded to 1.7 times their tokens, and these parts are to 1.4 times (texts ordered by length alone: 1.04 times)."""


class ByGroup(Sampler[int]):
    """Texts in an order that depends on seed and epoch alone, those of a group together and parts of like length.

    Parts are ordered by length within stretches of so many texts. `epoch` tells the number of the epoch that begins.
    """

    def __init__(
        self, groups: np.ndarray, lengths: Sequence[int], stretch: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self._lengths, self._stretch = np.asarray(lengths), stretch
        self._seed, self._epoch = seed, epoch
        order = np.lexsort((self._lengths, groups))
        starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))
        self._parts = [
            part for group in np.split(order, starts[1:]) for part in np.array_split(group, -(-len(group) // _TOGETHER))
        ]

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch())
        found: list[np.ndarray] = []
        size = 0
        for number in torch.randperm(len(self._parts), generator=generator).tolist():
            found.append(self._parts[number])
            size += len(found[-1])
            if size >= self._stretch:
                yield from self._by_length(found)
                found, size = [], 0
        yield from self._by_length(found)

    def _by_length(self, parts: list[np.ndarray]) -> Iterator[int]:
        for part in sorted(parts, key=lambda rows: -int(self._lengths[rows].max())):
            yield from part.tolist()
