"""Cohorts: networks that learn together from one teacher. The less accurate ones are dropped during training.

The networks of a cohort share the batches and the teacher's forward pass. It is often clear long before the end which
of them are the best. At certain steps, called rungs, the less accurate half of each group is therefore dropped
(successive halving, Jamieson and Talwalkar, arXiv:1502.07943). In a group with a `Goal`, a rung instead drops the half
that is less likely to contain the cheapest network of the required accuracy. The final training of the best candidates
uses cohorts (`CohortTrainer` in `training.py`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nas.model import CompactBert


class Cohort(nn.Module):
    """Several networks without shared weights, as one module that one optimiser and one schedule can train."""

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
        """Return the logits (batch, num_labels) of each network."""
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "labels": labels}
        return [network(input_ids, **inputs).logits for network in self.networks]


@dataclass(frozen=True)
class Goal:
    """The goal of a group of networks: to reach an accuracy at the end of training at the least cost.

    The keys of the mappings are the indices of the networks in the cohort.
    """

    least: float
    """The accuracy to be reached."""
    inherited: Mapping[int, float]
    """The accuracy of each network before training."""
    costs: Mapping[int, float]
    """The cost of each network, such as its latency."""

    def best_first(self, group: Collection[int], scores: Mapping[int, float], share: float) -> list[int]:
        """Return the networks of a group, best first. `scores` holds their accuracies after `share` of the steps.

        Networks that are expected to reach the accuracy `least` come first, in ascending order of cost. The remaining
        networks follow in descending order of their expected accuracy.
        """

        def expected(number: int) -> float:
            return expected_at_end(self.inherited[number], scores[number], share)

        def order(number: int) -> tuple[bool, float, int]:
            reaches = expected(number) >= self.least
            return not reaches, self.costs[number] if reaches else -expected(number), number

        return sorted(group, key=order)


@dataclass(frozen=True)
class Halving:
    """A schedule: the steps after which networks of a cohort are compared, and the groups in which they compete."""

    groups: tuple[frozenset[int], ...]
    """The groups of networks that compete with each other, as sets of indices in the cohort. A network may be in
    several groups. It is trained as long as at least one of its groups keeps it.
    """
    rungs: tuple[int, ...]
    """The step numbers after which each group keeps only its better half, rounded up."""
    goals: tuple[Goal | None, ...] = ()
    """The goal of each group; None for a group whose most accurate network wins. Empty if no group has a goal."""
    steps: int = 0
    """The number of steps of the whole training run."""

    @classmethod
    def of(
        cls,
        groups: Sequence[Collection[int]],
        steps: int,
        shares: Sequence[float],
        goals: Sequence[Goal | None] = (),
    ) -> Halving:
        """Return the schedule for these groups. The networks are compared after each of these shares of `steps`."""
        rungs = sorted({max(1, round(share * steps)) for share in shares})
        before_end = tuple(rung for rung in rungs if rung < steps)
        return cls(tuple(frozenset(group) for group in groups), before_end, tuple(goals), steps)

    @classmethod
    def never(cls, count: int) -> Halving:
        """Return a schedule without competition, which trains all `count` networks to the end."""
        return cls(tuple(frozenset({number}) for number in range(count)), ())

    def kept(self, scores: Sequence[Mapping[int, float]]) -> list[set[int]]:
        """Return, for each group, the networks that it keeps after the comparisons for which there are scores.

        `scores` has an item for each of these comparisons, in order. It holds the accuracy of every network that was
        still being trained, keyed by the network's index.
        """
        goals = self.goals or (None,) * len(self.groups)
        groups = [set(group) for group in self.groups]
        for step, rung in zip(self.rungs, scores, strict=False):
            for index, goal in enumerate(goals):
                group = groups[index]
                if goal:
                    ordered = goal.best_first(group, rung, step / self.steps)
                else:
                    ordered = sorted(group, key=lambda number: (-rung[number], number))
                groups[index] = set(ordered[: kept_of(len(group), goal is not None)])
        return groups


def expected_at_end(inherited: float, accuracy: float, share: float) -> float:
    """Return the accuracy expected at the end of a training run.

    `inherited` is the accuracy before training, and `accuracy` the accuracy after `share` of its steps. The gain is
    assumed to grow with the square root of the number of steps.
    """
    return accuracy + max(accuracy - inherited, 0.0) * (1.0 / math.sqrt(share) - 1.0)


def kept_of(count: int, has_goal: bool = False) -> int:
    """Return how many of `count` networks a rung keeps: half, rounded up, but at least two if the group has a goal.

    With a goal, the network ranked first may just miss the required accuracy in the end, so a second one is kept.
    """
    return min(count, max(-(-count // 2), 2 if has_goal else 1))
