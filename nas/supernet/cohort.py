"""Networks that are trained together by one teacher, of which the less accurate ones are dropped on the way.

Networks of a cohort share the teacher's forward pass and the batches. Which of them is the best is often plain long
before the end: each time a rung is reached the less accurate half of a group stops (successive halving, Jamieson and
Talwalkar, arXiv:1502.07943), or the half that is less likely to be the cheapest one of an accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nas.model import CompactBert


class Cohort(nn.Module):
    """Networks as one module, for one optimiser and one learning-rate schedule. They share no weights."""

    def __init__(self, networks: Sequence[CompactBert]) -> None:
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
class Goal:
    """An accuracy that a network of a group shall keep at the end, at the least cost. Networks are known by number."""

    least: float
    inherited: Mapping[int, float]
    """The accuracies before the training."""
    costs: Mapping[int, float]

    def best_first(self, group: Collection[int], scores: Mapping[int, float], share: float) -> list[int]:
        """The networks of a group by their accuracies after a share of the steps.

        Those that are expected to keep the accuracy come first, the cheapest before the others; then those nearest to
        it.
        """

        def expected(number: int) -> float:
            return expected_at_end(self.inherited[number], scores[number], share)

        def order(number: int) -> tuple[bool, float, int]:
            keeps = expected(number) >= self.least
            return not keeps, self.costs[number] if keeps else -expected(number), number

        return sorted(group, key=order)


@dataclass(frozen=True)
class Halving:
    """When and in which groups the networks of a cohort are compared."""

    groups: tuple[frozenset[int], ...]
    """Numbers of networks that compete with each other. A network may be in several; it trains while one keeps it."""
    rungs: tuple[int, ...]
    """Steps after which each group keeps its more accurate half, rounded up."""
    goals: tuple[Goal | None, ...] = ()
    """For each group what it is about, if it is not to be the most accurate; none where there is no such group."""
    steps: int = 0
    """Those of the whole training."""

    @classmethod
    def of(
        cls,
        groups: Sequence[Collection[int]],
        steps: int,
        shares: Sequence[float],
        goals: Sequence[Goal | None] = (),
    ) -> Halving:
        """Rungs at shares of a training's steps."""
        rungs = sorted({max(1, round(share * steps)) for share in shares})
        below = tuple(rung for rung in rungs if rung < steps)
        return cls(tuple(frozenset(group) for group in groups), below, tuple(goals), steps)

    @classmethod
    def never(cls, count: int) -> Halving:
        """So many networks without competition: all of them are trained to the end."""
        return cls(tuple(frozenset({number}) for number in range(count)), ())

    def kept(self, scores: Sequence[Mapping[int, float]]) -> list[set[int]]:
        """The networks that each group keeps after the rungs whose scores are given, in order.

        `scores` has for each rung the accuracy of every network that was still trained.
        """
        goals = self.goals or (None,) * len(self.groups)
        groups = [set(group) for group in self.groups]
        for step, rung in zip(self.rungs, scores, strict=False):
            for place, goal in enumerate(goals):
                group = groups[place]
                if goal:
                    ordered = goal.best_first(group, rung, step / self.steps)
                else:
                    ordered = sorted(group, key=lambda number: (-rung[number], number))
                groups[place] = set(ordered[: kept_of(len(group), goal is not None)])
        return groups


def expected_at_end(inherited: float, accuracy: float, share: float) -> float:
    """The accuracy that a training is expected to end with, from those before it and after a share of its steps.

    What is gained is taken to grow with the square root of the steps.
    """
    return accuracy + max(accuracy - inherited, 0.0) * (1.0 / math.sqrt(share) - 1.0)


def kept_of(count: int, has_goal: bool = False) -> int:
    """How many of so many networks a rung keeps; of a group with a goal two at least, since one may miss by little."""
    return min(count, max(-(-count // 2), 2 if has_goal else 1))
