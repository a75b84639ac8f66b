"""What a sub-network learns from the teacher: its logits and its hidden states.

Logits: Hinton et al., arXiv:1503.02531. Hidden states: after each of its layers a sub-network should hold what
the next layer it keeps is used to receive, so a layer is compared with the teacher's state just before that next
layer, and the last one with the teacher's final state.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from nas.space import Architecture


def distillation_loss(
    student: SequenceClassifierOutput,
    teacher: SequenceClassifierOutput,
    architecture: Architecture,
    attention_mask: torch.Tensor,
    hidden_weight: float,
) -> torch.Tensor:
    """The loss of a sub-network against the teacher; both ran with `output_hidden_states`."""
    assert student.logits is not None and teacher.logits is not None
    loss = logits_loss(student.logits, teacher.logits)
    if hidden_weight > 0.0:
        assert student.hidden_states is not None and teacher.hidden_states is not None
        loss = loss + hidden_weight * hidden_loss(
            student.hidden_states, teacher.hidden_states, architecture, attention_mask
        )
    return loss


def logits_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence to the teacher's classes; mean squared error for a regression."""
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        return functional.mse_loss(student, teacher)
    return functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def hidden_loss(
    student: tuple[torch.Tensor, ...],
    teacher: tuple[torch.Tensor, ...],
    architecture: Architecture,
    attention_mask: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the hidden states over real tokens and the sub-network's hidden units.

    `student` and `teacher` hold the states after the embeddings and after each layer, (batch, sequence, hidden).
    """
    expected = (*(layer.source for layer in architecture.layers), len(teacher) - 1)
    mask = attention_mask[:, :, None].to(student[0].dtype)
    cells = mask.sum() * architecture.hidden_size
    total = student[0].new_zeros(())
    for state, index in zip(student, expected, strict=True):
        target = teacher[index][..., : architecture.hidden_size]
        total = total + ((state - target) * mask).float().square().sum() / cells
    return total / len(expected)
