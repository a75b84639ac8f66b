"""Reuses hidden states: if two successive candidates share their first layers, these are computed only once.

`Evaluator` runs candidates with `SharedStates`. Executors use `prefix_keys` to choose the order of candidates.
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
_DEFAULT_LIMIT_BYTES = 2**30


def prefix_keys(architecture: Architecture) -> list[Key]:
    """Return a list with one key for the embeddings, followed by one key for each layer.

    Two networks have the same hidden states after a layer if all their keys up to that layer are equal.
    """
    first_token_layer = first_token_from(architecture.resolved)
    embeddings_key: Key = (architecture.hidden_size, architecture.embedding)
    return [embeddings_key, *((layer, number >= first_token_layer) for number, layer in enumerate(architecture.layers))]


def shared_depth(first: Sequence[Key], second: Sequence[Key]) -> int:
    """Return the length of the common prefix of two lists of keys."""
    pairs = zip(first, second, strict=False)
    return next((depth for depth, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


class SharedStates:
    """Stores, for each batch, the hidden states that the last network computed.

    The next network reuses the states after the first layers that both networks share. Therefore, run candidates that
    share many first layers one after the other. A state is not stored if the stored states would then exceed
    `limit_bytes`. Several threads may run batches at the same time.
    """

    def __init__(self, limit_bytes: int = _DEFAULT_LIMIT_BYTES) -> None:
        self.keys: list[Key] = []
        self._states: list[dict[int, torch.Tensor]] = []
        self._free_bytes = limit_bytes
        self._lock = Lock()

    def begin(self, architecture: Architecture) -> None:
        """Prepare for the next network.

        The hidden states of the first layers that it shares with the previous network are kept. All others are dropped.
        """
        keys = prefix_keys(architecture)
        depth = shared_depth(self.keys, keys)
        for states in self._states[depth:]:
            self._free_bytes += sum(state.nbytes for state in states.values())
        self._states = [*self._states[:depth], *({} for _ in keys[depth:])]
        self.keys = keys

    def run(self, model: CompactBert, number: int, batch: Batch) -> torch.Tensor:
        """Return the hidden states (texts, tokens, hidden_size) of a batch after the last layer.

        `number` identifies the batch.
        """
        stored_depths = (depth for depth in reversed(range(len(self._states))) if number in self._states[depth])
        depth = next(stored_depths, None)
        if depth is None:
            depth, hidden = 0, model.bert.embedded(batch.inputs["input_ids"], batch.inputs.get("token_type_ids"))
            self._store(0, number, hidden)
        else:
            hidden = self._states[depth][number]
        for layer in range(depth, len(self._states) - 1):
            hidden = model.bert.after(layer, hidden)
            self._store(layer + 1, number, hidden)
        return hidden

    def after_each_layer(self, model: CompactBert, number: int, batch: Batch) -> Iterator[torch.Tensor]:
        """Yield the hidden states (texts, tokens, hidden_size) of a batch after each layer.

        `number` identifies the batch. A layer is computed only when its hidden states are requested.
        """
        hidden: torch.Tensor | None = None
        for depth, stored in enumerate(self._states):
            if number in stored:
                hidden = stored[number]
            elif hidden is None:
                hidden = model.bert.embedded(batch.inputs["input_ids"], batch.inputs.get("token_type_ids"))
                self._store(depth, number, hidden)
            else:
                hidden = model.bert.after(depth - 1, hidden)
                self._store(depth, number, hidden)
            if depth:
                yield hidden

    def _store(self, depth: int, number: int, hidden: torch.Tensor) -> None:
        with self._lock:
            if hidden.nbytes <= self._free_bytes:
                self._free_bytes -= hidden.nbytes
                self._states[depth][number] = hidden


def longest_prefix(architectures: Sequence[Architecture], previous_keys: Sequence[Key]) -> int:
    """Return the index of the architecture whose `prefix_keys` share the longest prefix with `previous_keys`.

    If several architectures share the longest prefix, return the index of the first one.
    """
    depths = [shared_depth(previous_keys, prefix_keys(architecture)) for architecture in architectures]
    return depths.index(max(depths))
