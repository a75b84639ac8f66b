"""What candidates have in common is computed once: the hidden states after their first layers."""

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
    """For the embeddings and each layer what the states after it depend on: equal keys in a row, equal states."""
    alone = first_token_from(architecture.resolved)
    ends: Key = (architecture.hidden_size, architecture.embedding)
    return [ends, *((layer, number >= alone) for number, layer in enumerate(architecture.layers))]


def shared_depth(first: Sequence[Key], second: Sequence[Key]) -> int:
    """How many keys two networks share from the first on."""
    pairs = zip(first, second, strict=False)
    return next((depth for depth, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


class SharedStates:
    """The states of the network that was run last, for each batch; another one starts where the two part ways.

    Candidates that share much shall therefore follow each other. States are kept from the embeddings on as long as
    there is memory. Batches may be run by several threads.
    """

    def __init__(self, limit_bytes: int = _BYTES) -> None:
        self.keys: list[Key] = []
        self._states: list[dict[int, torch.Tensor]] = []
        self._free = limit_bytes
        self._keeping = Lock()

    def begin(self, architecture: Architecture) -> None:
        """Keep what the next network shares, forget the rest."""
        keys = prefix_keys(architecture)
        depth = shared_depth(self.keys, keys)
        for states in self._states[depth:]:
            self._free += sum(state.nbytes for state in states.values())
        self._states = [*self._states[:depth], *({} for _ in keys[depth:])]
        self.keys = keys

    def run(self, model: CompactBert, number: int, batch: Batch) -> torch.Tensor:
        """The last hidden state of a batch, (texts, tokens, hidden_size). `number` is that of the batch."""
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
        """The hidden state of a batch after the first layer, the second and so on, computed when it is asked for."""
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


def most_alike(architectures: Sequence[Architecture], last: Sequence[Key]) -> int:
    """The place of the one that shares most with what was run last; of equals the first."""
    depths = [shared_depth(last, prefix_keys(architecture)) for architecture in architectures]
    return depths.index(max(depths))
