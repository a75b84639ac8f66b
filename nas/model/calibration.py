"""Calibration: computes the ranges of activations that some compression methods need in an exported network.

Calibrated compression methods quantise the inputs of linear layers with a fixed range. A network that was extracted
from a supernet has no such ranges yet. `calibrate` runs the network on texts and stores the ranges in the network, so
that they are saved with its weights and written to its ONNX graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

from nas.compression import text_extremes
from nas.compression.base import Calibrated
from nas.model.layers import BlockLinear
from nas.model.modeling import CompactBert


def lacks_calibration(model: CompactBert) -> bool:
    """Whether a network has linear layers that need a range of their inputs, but have none."""
    linears = (module for module in model.modules() if isinstance(module, BlockLinear))
    return any(linear.compression.calibrated and linear.input_range is None for linear in linears)


@torch.no_grad()
def calibrate(model: CompactBert, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
    """Compute the ranges of activations that a network needs, and store them in the network.

    Each batch contains the arguments of the network's `forward`. It should have no padding, because the ranges would
    also include the activations of padding tokens. Networks whose compression methods need no ranges are not changed.
    """
    methods = {
        module: module.compression
        for module in model.modules()
        if isinstance(module, BlockLinear) and isinstance(module.compression, Calibrated)
    }
    if not methods:
        return
    extremes: dict[BlockLinear, list[torch.Tensor]] = {linear: [] for linear in methods}

    def record(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        extremes[module].append(text_extremes(inputs[0]))

    for linear in methods:
        linear.input_range = None
    with ExitStack() as hooks:
        for linear in methods:
            hooks.enter_context(linear.register_forward_pre_hook(record))
        for batch in batches:
            model(**batch)
    for linear, method in methods.items():
        linear.input_range = method.range_of(torch.cat(extremes[linear]))
    model.config.calibrated = True
