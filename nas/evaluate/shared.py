"""Reuse of hidden states: the first layers are not recomputed if two candidates in a row share them.

`Evaluator` runs candidates through `SharedStates`. Executors use the prefix keys to order candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import torch

from nas.architecture import Architecture, first_token_from
from nas.data import Batch
from nas.model import CompactBert

Key = tuple[Any, ...]
_BYTES = 2**30


def prefix_keys(architecture: Architecture) -> list[Key]:
    """Return a key for the embeddings and one for each layer, in order.

    Two networks have the same states after a layer if all their keys up to that layer are equal.
    """
    alone = first_token_from(architecture.resolved)
    ends: Key = (architecture.hidden_size, architecture.embedding)
    return [ends, *((layer, number >= alone) for number, layer in enumerate(architecture.layers))]


def shared_depth(first: Sequence[Key], second: Sequence[Key]) -> int:
    """Return the length of the common prefix of two lists of keys."""
    pairs = zip(first, second, strict=False)
    return next((depth for depth, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


class SharedStates:
    """The hidden states of the network that was run last, for each batch.

    The next network reuses the states of the layer prefix that it shares with this network. Candidates with a long
    shared prefix should therefore follow each other. States are stored in the order in which they are computed, as long
    as they fit into `limit_bytes`. Several threads may run batches at the same time.
    """

    def __init__(self, limit_bytes: int = _BYTES) -> None:
        self.keys: list[Key] = []
        self._states: list[dict[int, torch.Tensor]] = []
        self._free = limit_bytes
        self._keeping = Lock()

    def begin(self, architecture: Architecture) -> None:
        """Prepare for the next network: keep the states of the shared prefix, and drop the others."""
        keys = prefix_keys(architecture)
        depth = shared_depth(self.keys, keys)
        for states in self._states[depth:]:
            self._free += sum(state.nbytes for state in states.values())
        self._states = [*self._states[:depth], *({} for _ in keys[depth:])]
        self.keys = keys

    def run(self, model: CompactBert, number: int, batch: Batch) -> torch.Tensor:
        """Return the last hidden state of a batch, (texts, tokens, hidden_size). `number` identifies the batch."""
        known = (depth for depth in reversed(range(len(self._states))) if number in self._states[depth])
        depth = next(known, None)
        if depth is None:
            depth, hidden = 0, model.bert.embedded(batch.inputs["input_ids"], batch.inputs.get("token_type_ids"))
            self._keep(0, number, hidden)
        else:
            hidden = self._states[depth][number]
        for layer in range(depth, len(self._states) - 1):
            hidden = model.bert.after(layer, hidden)
            self._keep(layer + 1, number, hidden)
        return hidden

    def after_each_layer(self, model: CompactBert, number: int, batch: Batch) -> Iterator[torch.Tensor]:
        """Yield the hidden states of a batch after the first layer, the second layer and so on, computed on demand."""
        hidden: torch.Tensor | None = None
        for depth, known in enumerate(self._states):
            if number in known:
                hidden = known[number]
            elif hidden is None:
                hidden = model.bert.embedded(batch.inputs["input_ids"], batch.inputs.get("token_type_ids"))
                self._keep(depth, number, hidden)
            else:
                hidden = model.bert.after(depth - 1, hidden)
                self._keep(depth, number, hidden)
            if depth:
                yield hidden

    def _keep(self, depth: int, number: int, hidden: torch.Tensor) -> None:
        with self._keeping:
            if hidden.nbytes <= self._free:
                self._free -= hidden.nbytes
                self._states[depth][number] = hidden


def longest_prefix(architectures: Sequence[Architecture], last: Sequence[Key]) -> int:
    """Return the index of the architecture that shares the longest prefix with the keys in `last`.

    If there are several, return the first.
    """
    depths = [shared_depth(last, prefix_keys(architecture)) for architecture in architectures]
    return depths.index(max(depths))
