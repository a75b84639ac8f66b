"""Networks that are trained together by one teacher, of which the less accurate ones are dropped on the way.

Networks of a cohort share the teacher's forward pass and the batches. Which of them is the best is often plain long
before the end: each time a rung is reached the less accurate half of a group stops (successive halving, Jamieson and
Talwalkar, arXiv:1502.07943).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nas.model import CompactBertForSequenceClassification


class Cohort(nn.Module):
    """Networks as one module, for one optimiser and one learning-rate schedule. They share no weights."""

    def __init__(self, networks: Sequence[CompactBertForSequenceClassification]) -> None:
        super().__init__()
        self.networks = list(networks)
        self._registered = nn.ModuleList(networks)
        self.config = networks[0].config

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """The logits of each network, (batch, num_labels)."""
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "labels": labels}
        return [network(input_ids, **inputs).logits for network in self.networks]


@dataclass(frozen=True)
class Halving:
    """When and in which groups the networks of a cohort are compared."""

    groups: tuple[frozenset[int], ...]
    """Numbers of networks that compete with each other. A network may be in several; it trains while one keeps it."""
    rungs: tuple[int, ...]
    """Steps after which each group keeps its more accurate half, rounded up."""

    @classmethod
    def of(cls, groups: Sequence[Collection[int]], steps: int, shares: Sequence[float]) -> Halving:
        """Rungs at shares of a training's steps."""
        rungs = sorted({max(1, round(share * steps)) for share in shares})
        return cls(tuple(frozenset(group) for group in groups), tuple(rung for rung in rungs if rung < steps))

    @classmethod
    def never(cls, count: int) -> Halving:
        """So many networks without competition: all of them are trained to the end."""
        return cls(tuple(frozenset({number}) for number in range(count)), ())

    def kept(self, scores: Sequence[Mapping[int, float]]) -> list[set[int]]:
        """The networks that each group keeps after the rungs whose scores are given, in order.

        `scores` has for each rung the accuracy of every network that was still trained.
        """
        groups = [set(group) for group in self.groups]
        for rung in scores:
            groups = [
                set(sorted(group, key=lambda number: (-rung[number], number))[: half(len(group))]) for group in groups
            ]
        return groups


def half(count: int) -> int:
    """How many of so many networks a rung keeps."""
    return -(-count // 2)
