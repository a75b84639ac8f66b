"""Cohorts: networks that are trained together by distillation. The less accurate ones are dropped during training.

All networks of a cohort use the same batches and the same forward passes of the teacher. It is often clear long before
the end of training which networks are best. At certain steps, called rungs, each group of competing networks therefore
loses its less accurate half (successive halving, Jamieson and Talwalkar, arXiv:1502.07943). If a group has a `Goal`, it
loses the half that `Goal.best_first` ranks lower. The best candidates of a search are trained as cohorts
(`CohortTrainer` in `training.py`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nas.model import CompactBert


class Cohort(nn.Module):
    """A module that holds several networks without shared weights, so that one optimiser can train all of them."""

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
        """Return the logits of each network, each of shape (batch, num_labels)."""
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "labels": labels}
        return [network(input_ids, **inputs).logits for network in self.networks]


@dataclass(frozen=True)
class Goal:
    """The goal of a group of networks: the lowest cost among networks that reach a required accuracy.

    The mappings are keyed by the index of the network in the cohort.
    """

    least: float
    """The accuracy that must be reached by the end of training."""
    inherited: Mapping[int, float]
    """The accuracy of each network before training."""
    costs: Mapping[int, float]
    """The cost of each network, such as its latency."""

    def best_first(self, group: Collection[int], scores: Mapping[int, float], share: float) -> list[int]:
        """Return the indices of a group's networks, best first.

        `scores` holds the accuracy of each network after the fraction `share` of all steps. Networks that are expected
        to reach the accuracy `least` come first, in ascending order of cost. All other networks follow, in descending
        order of expected accuracy.
        """

        def expected(number: int) -> float:
            return expected_at_end(self.inherited[number], scores[number], share)

        def order(number: int) -> tuple[bool, float, int]:
            reaches = expected(number) >= self.least
            return not reaches, self.costs[number] if reaches else -expected(number), number

        return sorted(group, key=order)


@dataclass(frozen=True)
class Halving:
    """A schedule for successive halving: groups of competing networks, and the steps after which they are compared."""

    groups: tuple[frozenset[int], ...]
    """The groups of competing networks. Each group is a set of indices of networks in the cohort. A network may belong
    to several groups, and is trained as long as at least one of them keeps it.
    """
    rungs: tuple[int, ...]
    """The steps after which each group keeps only the better half of its networks (see `kept_of`)."""
    goals: tuple[Goal | None, ...] = ()
    """The goal of each group, or None for a group that is ranked only by accuracy. Empty if no group has a goal."""
    steps: int = 0
    """The total number of training steps."""

    @classmethod
    def of(
        cls,
        groups: Sequence[Collection[int]],
        steps: int,
        shares: Sequence[float],
        goals: Sequence[Goal | None] = (),
    ) -> Halving:
        """Return a schedule for `groups`. `shares` holds the fractions of `steps` after which networks are compared."""
        rungs = sorted({max(1, round(share * steps)) for share in shares})
        before_end = tuple(rung for rung in rungs if rung < steps)
        return cls(tuple(frozenset(group) for group in groups), before_end, tuple(goals), steps)

    @classmethod
    def never(cls, count: int) -> Halving:
        """Return a schedule that drops no network, so that all `count` networks are trained to the end."""
        return cls(tuple(frozenset({number}) for number in range(count)), ())

    def kept(self, scores: Sequence[Mapping[int, float]]) -> list[set[int]]:
        """Return one set per group: the indices of the networks that remain after the rungs reached so far.

        `scores` has one item per rung reached so far, in the order of the rungs. Each item holds the accuracies of the
        networks that were still being trained, keyed by the index of the network.
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
    """Return the accuracy that a network is expected to have at the end of training.

    `inherited` is its accuracy before training, and `accuracy` is its accuracy after the fraction `share` of all steps.
    The gain is assumed to grow with the square root of the number of steps.
    """
    return accuracy + max(accuracy - inherited, 0.0) * (1.0 / math.sqrt(share) - 1.0)


def kept_of(count: int, has_goal: bool = False) -> int:
    """Return how many networks remain after a rung if a group has `count` networks.

    Half of them remain, rounded up, but at least two if the group has a goal: the network that ranks first may narrowly
    miss the required accuracy in the end.
    """
    return min(count, max(-(-count // 2), 2 if has_goal else 1))
