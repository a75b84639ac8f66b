"""Reordering of units by importance: the most important heads, neurons and hidden units come first.

The importance of a unit is a first-order Taylor estimate of how much the loss changes if the unit is removed. The
product of activation and gradient is summed over the tokens of each text, and the absolute values of these sums are
added up over all texts (Molchanov et al., arXiv:1611.06440; for heads, Michel et al., arXiv:1905.10650). Reordering
only permutes weights, so the network still computes the same function. The pipeline reorders the teacher before it
becomes a supernet, because sub-networks keep the leading units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import torch
from torch import nn

from nas.model import CompactBert
from nas.model.axes import Axis, labelled

Units = tuple[Axis, int | None]
"""A kind of unit, and the index of the layer that contains these units, or None if all layers share them."""
Importance = dict[Units, torch.Tensor]
"""The importance scores of all hidden units, heads and neurons, and of the pooler's units if there is a pooler. A unit
with a higher score is more important."""
_LAYER_AXES = (Axis.HEADS, Axis.HEAD_FEATURES, Axis.NEURONS)


class _Taylor:
    """The scores of the units at one point of the network: the sum over texts of |activation x gradient|."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None

    def watch(self, value: torch.Tensor) -> None:
        # If the hook referred to `value` itself, neither `value` nor its autograd graph would ever be freed.
        activation = value.detach()
        value.register_hook(lambda gradient: self._add(activation * gradient))

    def _add(self, product: torch.Tensor) -> None:
        per_text = product.sum(dim=1) if product.dim() == 3 else product
        score = per_text.abs().sum(dim=0)
        self.total = score if self.total is None else self.total + score

    @property
    def score(self) -> torch.Tensor:
        if self.total is None:
            raise RuntimeError("importance must be measured on at least one batch, but got none")
        return self.total


def measure_importance(model: CompactBert, batches: Iterable[dict[str, torch.Tensor]]) -> Importance:
    """Return the importance scores of all units. Each item of `batches` holds arguments of the model's `forward`.

    If a batch has `labels`, the gradients are those of the loss. Batches for embedding tasks have no labels. For these,
    the scalar product of the outputs and random directions replaces the loss. Its gradients show how much the outputs
    depend on each unit.
    """
    generator = torch.Generator().manual_seed(0)
    layers = model.layers
    context = [_Taylor() for _ in layers]
    neurons = [_Taylor() for _ in layers]
    states = [_Taylor() for _ in range(2 * len(layers) + 1)]
    pooled = _Taylor()
    bert = model.bert
    writers: list[nn.Module] = [bert.embeddings_project or bert.embeddings]
    with ExitStack() as hooks:
        if bert.pooler is not None:
            hooks.enter_context(_watch_output(bert.pooler, pooled))
        for layer, at_context, at_neurons in zip(layers, context, neurons, strict=True):
            hooks.enter_context(_watch_input(layer.attention.output.dense, at_context))
            hooks.enter_context(_watch_input(layer.output.dense, at_neurons))
            writers += [layer.attention.output, layer.output]
        for writer, at_state in zip(writers, states, strict=True):
            hooks.enter_context(_watch_output(writer, at_state))
        model.eval()
        first_size = 0
        for batch in batches:
            output = model(**batch)
            loss = _along_random_directions(output.logits, generator) if output.loss is None else output.loss
            # The loss is a mean over the batch. Without this factor, the texts of a smaller batch would weigh more.
            size = len(output.logits)
            first_size = first_size or size
            (loss * (size / first_size)).backward()
            model.zero_grad()
    importance: Importance = {(Axis.HIDDEN, None): torch.stack([state.score for state in states]).sum(dim=0)}
    if bert.pooler is not None:
        importance[Axis.POOLED, None] = pooled.score
    for number, (at_context, at_neurons) in enumerate(zip(context, neurons, strict=True)):
        importance[Axis.HEADS, number] = _of_heads(at_context.score, model)
        importance[Axis.NEURONS, number] = at_neurons.score
    return importance


def _along_random_directions(outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the scalar product of each text's outputs with a random direction, averaged over the texts."""
    directions = torch.randn(outputs.shape, generator=generator).to(outputs)
    return (outputs * directions).sum() / len(outputs)


@torch.no_grad()
def magnitude(model: CompactBert) -> Importance:
    """Return importance scores that need no data: each unit's sum of its squared incoming and outgoing weights."""
    scores: Importance = {}
    for parameter, dimension, units in _axes_with_units(model):
        if parameter.dim() == 2:
            scores[units] = scores.get(units, 0.0) + parameter.square().sum(dim=1 - dimension)
    for number in range(len(model.layers)):
        scores[Axis.HEADS, number] = _of_heads(scores.pop((Axis.HEAD_FEATURES, number)), model)
    return scores


def _of_heads(scores: torch.Tensor, model: CompactBert) -> torch.Tensor:
    """Return the score of each head, given the scores of the features within the heads."""
    return scores.unflatten(0, (-1, model.config.attention_head_size)).sum(dim=1)


def _watch_input(module: nn.Module, taylor: _Taylor) -> torch.utils.hooks.RemovableHandle:
    return module.register_forward_pre_hook(lambda _module, inputs: taylor.watch(inputs[0]))


def _watch_output(module: nn.Module, taylor: _Taylor) -> torch.utils.hooks.RemovableHandle:
    return module.register_forward_hook(lambda _module, _inputs, output: taylor.watch(output))


@torch.no_grad()
def reorder(model: CompactBert, importance: Importance) -> None:
    """Permute the weights in place so that the most important units come first.

    The outputs of the network stay the same, with one exception: an encoder without a projection returns hidden units,
    so its outputs are permuted too.
    """
    head_size = model.config.attention_head_size
    orders = {units: torch.argsort(scores, descending=True, stable=True) for units, scores in importance.items()}
    for number in range(len(model.layers)):
        heads = orders[Axis.HEADS, number]
        orders[Axis.HEAD_FEATURES, number] = (heads[:, None] * head_size + torch.arange(head_size)).flatten()
    for parameter, dimension, units in _axes_with_units(model):
        parameter.copy_(parameter.index_select(dimension, orders[units]))


def _axes_with_units(model: CompactBert) -> Iterator[tuple[nn.Parameter, int, Units]]:
    """Yield each axis of a parameter along which there are units, as a triple (parameter, dimension, units)."""
    layer_of = {module: number for number, layer in enumerate(model.layers) for module in layer.modules()}
    for module in model.modules():
        for parameter, axes in labelled(module):
            for dimension, axis in enumerate(axes):
                if axis is not None:
                    yield parameter, dimension, (axis, layer_of.get(module) if axis in _LAYER_AXES else None)
