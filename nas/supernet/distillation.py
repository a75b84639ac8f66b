"""What a sub-network learns from the teacher: its logits, its hidden states and its attention relations.

Logits: Hinton et al., arXiv:1503.02531. Hidden states: after each of its layers a sub-network should hold what
the next layer it keeps is used to receive, so a layer is compared with the teacher's state just before that next
layer, and the last one with the teacher's final state. Attention relations: Wang et al., arXiv:2012.15828, how the
tokens of a text resemble each other in the last layer's queries, keys and values; their number of features, and
so of heads, is free.

Each loss is a mean over the texts of a batch, so that the mean of two halves is the loss of the whole. Where a kind of
task compares the texts of a group that is so only if no group is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from nas.architecture import Architecture
from nas.model import CompactBert
from nas.model.layers import at_places
from nas.model.modeling import CompactBertOutput
from nas.tasks import TaskKind


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts; a part of weight zero is not computed."""

    logits: float = 1.0
    hidden: float = 1.0
    relations: float = 0.0


@dataclass
class Knowledge:
    """What one forward pass of teacher or sub-network leaves to compare."""

    logits: tuple[torch.Tensor, ...]
    """After each layer that the network can be left after, and the last ones, each (batch, num_labels)."""
    states: tuple[torch.Tensor, ...]
    """After the embeddings and after each layer, each (batch, tokens, hidden_size)."""
    places: tuple[torch.Tensor | None, ...]
    """The places in the text of each state's tokens, (batch, tokens); None for all."""
    projections: list[torch.Tensor] = field(default_factory=list)
    """Queries, keys and values of the last layer, each (batch, sequence, features)."""

    @classmethod
    def of(cls, output: CompactBertOutput, projections: list[torch.Tensor]) -> Knowledge:
        """From a model's output with details and hidden states."""
        assert output.every_logits and output.hidden_states is not None and output.places is not None
        # Modules that the last layer borrows have run in their owner's layer before.
        return cls(output.every_logits, output.hidden_states, output.places, projections[-3:])


@contextmanager
def last_projections(model: CompactBert) -> Iterator[list[torch.Tensor]]:
    """A list that, while it is open, a forward pass fills with the last layer's queries, keys and values.

    It stays empty where the last layer has no attention.
    """
    kept: list[torch.Tensor] = []
    last = model.layers[-1]
    attention = last.attention.self if last.has_attention else None
    modules = (attention.query, attention.key, attention.value) if attention else ()
    hooks = [module.register_forward_hook(lambda _m, _i, output: kept.append(output)) for module in modules]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def distillation_loss(
    student: Knowledge,
    teacher: Knowledge,
    architecture: Architecture,
    attention_mask: torch.Tensor,
    weights: LossWeights,
    kind: TaskKind,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of a sub-network against the teacher, in a kind of task; `groups` (batch,) where it judges groups."""
    loss = student.logits[-1].new_zeros((), dtype=torch.float32)
    if weights.logits:
        asked = {"groups": groups, "mask": attention_mask}
        loss = loss + weights.logits * kind.divergence(student.logits[-1], teacher.logits[-1], **asked)
        early = [kind.divergence(logits, teacher.logits[-1], **asked) for logits in student.logits[:-1]]
        loss = loss + weights.logits * sum(early) / max(1, len(early))
    if weights.hidden:
        loss = loss + weights.hidden * hidden_loss(student, teacher, architecture, attention_mask)
    if weights.relations and student.projections:
        loss = loss + weights.relations * relation_loss(student, teacher, attention_mask)
    return loss


def hidden_loss(
    student: Knowledge, teacher: Knowledge, architecture: Architecture, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of the hidden states, over the sub-network's hidden units, tokens and states.

    The teacher's states have all tokens, but for the last one if that of the sub-network is of the first alone.
    """
    expected = (*(layer.source for layer in architecture.layers), len(teacher.states) - 1)
    total = attention_mask.new_zeros((), dtype=torch.float32)
    for state, places, index in zip(student.states, student.places, expected, strict=True):
        target, mask = teacher.states[index], attention_mask
        if places is not None:
            target, mask = at_places(target, places), mask.gather(1, places)
        errors = (state - target[..., : architecture.hidden_size]).float().square().mean(dim=-1)
        total = total + _mean_over_tokens(errors, mask)
    return total / len(expected)


def relation_loss(student: Knowledge, teacher: Knowledge, attention_mask: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence between the relations of the last layer's tokens, over queries, keys and values."""
    places = student.places[-2]
    mask = attention_mask if places is None else attention_mask.gather(1, places)
    blocked = mask[:, None, :] == 0
    total = mask.new_zeros((), dtype=torch.float32)
    for own, others in zip(student.projections, teacher.projections, strict=True):
        target = others if places is None else at_places(others, places)
        divergence = functional.kl_div(
            _relations(own, blocked), _relations(target, blocked), reduction="none", log_target=True
        )
        per_token = divergence.masked_fill(blocked, 0.0).sum(dim=-1)
        total = total + _mean_over_tokens(per_token, mask)
    return total / len(student.projections)


def _relations(features: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (batch, sequence, sequence) of scaled dot products between the tokens of a text."""
    scores = features @ features.transpose(1, 2) / features.shape[-1] ** 0.5
    return scores.float().masked_fill(blocked, torch.finfo(torch.float32).min).log_softmax(dim=-1)


def _mean_over_tokens(values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean of (batch, sequence) over the real tokens of each text, then over texts."""
    return ((values * attention_mask).sum(dim=1) / attention_mask.sum(dim=1)).mean()
