"""Read the projection of a sentence encoder: the `Dense` modules that follow its pooling in sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from nas.errors import TeacherError
from nas.model.checkpoint import load_tensors
from nas.sentence_modules import Dense, read_modules

WEIGHT, BIAS = "linear.weight", "linear.bias"
"""The names of the parameters in the weights file of a `Dense` module."""


def read_projection(folder: Path, hidden_size: int) -> nn.Linear | None:
    """Return the linear layer of the projection in an encoder's folder; None if the encoder has no projection.

    The layer does not contain the activation (`NetworkForm.projection_act`). It always has a bias, which is 0 if the
    projection has none. Several consecutive linear layers are merged into one. Raises `TeacherError` if the modules are
    not supported, if weights are missing, or if weights do not fit the settings or the encoder's `hidden_size`.
    """
    projections = read_modules(folder).projections
    if not projections:
        return None
    if projections[0].in_features != hidden_size:
        raise TeacherError(
            f"teacher.model: {projections[0].folder / 'config.json'}: in_features must be the encoder's hidden size, "
            f"{hidden_size}, but is {projections[0].in_features}; copy or download the folder again"
        )
    weight, bias = _weights(projections[0])
    for projection in projections[1:]:
        next_weight, next_bias = _weights(projection)
        weight, bias = next_weight @ weight, next_weight @ bias + next_bias
    linear = nn.Linear(hidden_size, len(weight))
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


def _weights(projection: Dense) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight (outputs, inputs) and the bias (outputs,) of a projection, in double precision."""
    shapes: dict[str, tuple[int, ...]] = {WEIGHT: (projection.out_features, projection.in_features)}
    if projection.has_bias:
        shapes[BIAS] = (projection.out_features,)
    tensors = load_tensors(str(projection.folder), shapes)
    weight = tensors[WEIGHT].double()
    return weight, tensors[BIAS].double() if projection.has_bias else weight.new_zeros(len(weight))
