"""The distillation losses. A sub-network learns the logits, hidden states and attention relations of the teacher.

Logits: Hinton et al., arXiv:1503.02531.

Hidden states: each layer of a sub-network corresponds to one layer of the teacher. The input of the sub-network's layer
is compared with the input of the teacher's layer. The final hidden states of both networks are also compared. In
families whose blocks normalise their input (`norm_first`), hidden states are not normalised and grow from layer to
layer. The errors are then divided by the size of the teacher's states, so that all layers have about the same weight.

Attention relations: Wang et al., arXiv:2012.15828. These are the similarities between the tokens of a text, computed
from the queries, keys and values of the last layer. Their shape does not depend on the number of heads, so a
sub-network may have fewer heads than the teacher.

Each loss is a mean over the texts of a batch. A batch can therefore be split: its loss is the mean of the losses of two
equal halves. If the kind of task compares the texts of a group, this is true only if no group is split.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from nas.architecture import Architecture
from nas.model import CompactBert
from nas.model.layers import at_positions
from nas.model.modeling import CompactBertOutput
from nas.tasks import TaskKind

_EPSILON = 1e-5
"""A number that is added to mean squares before they are used as divisors, because states of padding may be zero."""


@dataclass(frozen=True)
class LossWeights:
    """The weights of the loss terms. A term with weight 0 is not computed."""

    logits: float = 1.0
    hidden: float = 1.0
    relations: float = 0.0
    relative_hidden: bool = False
    """Whether the errors of hidden states are relative to the teacher's states (see `hidden_loss`)."""


@dataclass
class Knowledge:
    """The outputs that the losses compare, from one forward pass of the teacher or of a sub-network."""

    logits: tuple[torch.Tensor, ...]
    """The logits at each early exit, followed by the logits after the last layer. The shape of each tensor is (batch,
    num_labels), or (batch, tokens, num_labels) if the readout is `every`.
    """
    states: tuple[torch.Tensor, ...]
    """The hidden states after the embeddings and after each layer, each of shape (batch, tokens, hidden_size)."""
    positions: tuple[torch.Tensor | None, ...]
    """For each tensor in `states`, the positions of its tokens in the text, of shape (batch, tokens). None if the
    tensor contains all tokens.
    """
    projections: list[torch.Tensor] = field(default_factory=list)
    """The queries, keys and values of the last layer, each of shape (batch, sequence, features). Empty if they were not
    recorded.
    """

    @classmethod
    def of(cls, output: CompactBertOutput, projections: list[torch.Tensor]) -> Knowledge:
        """Return the outputs to compare. `output` must include hidden states. `projections` may be empty."""
        assert output.every_logits and output.hidden_states is not None and output.positions is not None
        # If the last layer shares the modules of an earlier layer, they have also run in that layer. Only the outputs
        # of the last three runs are those of the last layer.
        return cls(output.every_logits, output.hidden_states, output.positions, projections[-3:])


@contextmanager
def recorded_projections(model: CompactBert) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which each forward pass in the `with` block adds the last layer's queries, keys and values.

    The list stays empty if the last layer has no attention.
    """
    projections: list[torch.Tensor] = []
    last = model.layers[-1]
    attention = last.attention.self if last.has_attention else None
    modules = (attention.query, attention.key, attention.value) if attention else ()
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(lambda _m, _i, output: projections.append(output)))
        yield projections


def distillation_loss(
    student: Knowledge,
    teacher: Knowledge,
    architecture: Architecture,
    attention_mask: torch.Tensor,
    weights: LossWeights,
    kind: TaskKind,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weighted sum of the distillation losses between a sub-network, `student`, and the teacher.

    `kind` defines the loss of the logits. `groups` (batch,) states to which group each text belongs, and is required if
    the kind of task compares the texts of a group.
    """
    loss = student.logits[-1].new_zeros((), dtype=torch.float32)
    if weights.logits:
        arguments = {"groups": groups, "mask": attention_mask}
        loss = loss + weights.logits * kind.divergence(student.logits[-1], teacher.logits[-1], **arguments)
        early = [kind.divergence(logits, teacher.logits[-1], **arguments) for logits in student.logits[:-1]]
        loss = loss + weights.logits * sum(early) / max(1, len(early))
    if weights.hidden:
        loss = loss + weights.hidden * hidden_loss(
            student, teacher, architecture, attention_mask, weights.relative_hidden
        )
    if weights.relations and student.projections:
        loss = loss + weights.relations * relation_loss(student, teacher, attention_mask)
    return loss


def hidden_loss(
    student: Knowledge,
    teacher: Knowledge,
    architecture: Architecture,
    attention_mask: torch.Tensor,
    relative: bool = False,
) -> torch.Tensor:
    """Return the mean squared error between the hidden states of a sub-network and those of the teacher.

    The mean is taken over the sub-network's hidden units, tokens and states. With `relative`, the error of each token
    is divided by the mean square of the teacher's state for this token. The teacher's states must contain all tokens,
    except that its last state may contain only the first token if the same is true of the sub-network's last state.
    """
    expected = (*(layer.source for layer in architecture.layers), len(teacher.states) - 1)
    total = attention_mask.new_zeros((), dtype=torch.float32)
    for state, positions, index in zip(student.states, student.positions, expected, strict=True):
        target, mask = teacher.states[index], attention_mask
        if positions is not None:
            target, mask = at_positions(target, positions), mask.gather(1, positions)
        errors = (state - target[..., : architecture.hidden_size]).float().square().mean(dim=-1)
        if relative:
            errors = errors / (target.float().square().mean(dim=-1) + _EPSILON)
        total = total + _mean_over_tokens(errors, mask)
    return total / len(expected)


def relation_loss(student: Knowledge, teacher: Knowledge, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence between the attention relations of the teacher and the student in the last layer.

    The result is the mean over queries, keys and values.
    """
    positions = student.positions[-2]
    mask = attention_mask if positions is None else attention_mask.gather(1, positions)
    blocked = mask[:, None, :] == 0
    total = mask.new_zeros((), dtype=torch.float32)
    for student_projection, teacher_projection in zip(student.projections, teacher.projections, strict=True):
        target = teacher_projection if positions is None else at_positions(teacher_projection, positions)
        divergence = functional.kl_div(
            _relations(student_projection, blocked), _relations(target, blocked), reduction="none", log_target=True
        )
        per_token = divergence.masked_fill(blocked, 0.0).sum(dim=-1)
        total = total + _mean_over_tokens(per_token, mask)
    return total / len(student.projections)


def _relations(features: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
    """Return the log-softmax (batch, sequence, sequence) of scaled dot products between tokens.

    `blocked` marks the padding tokens, which get the smallest possible score.
    """
    scores = features @ features.transpose(1, 2) / features.shape[-1] ** 0.5
    return scores.float().masked_fill(blocked, torch.finfo(torch.float32).min).log_softmax(dim=-1)


def _mean_over_tokens(values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of `values` (batch, sequence) over the real tokens of each text, and then over all texts."""
    return ((values * attention_mask).sum(dim=1) / attention_mask.sum(dim=1)).mean()
