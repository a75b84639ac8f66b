"""Ordering by importance: the heads, neurons and hidden units that matter most come first.

Importance is the first-order Taylor estimate of how much the loss changes when a unit is removed: the absolute
value of activation times gradient, summed over a text and averaged over texts (Molchanov et al., arXiv:1611.06440;
for heads, Michel et al., arXiv:1905.10650). Reordering permutes weights only: the function stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from nas.model import CompactBert
from nas.model.layers import BlockLinear
from nas.model.modeling import CompactBertModel


@dataclass
class Importance:
    """Scores of every unit, larger for what matters more."""

    hidden: torch.Tensor
    """Hidden units, (hidden_size,)."""
    pooled: torch.Tensor | None
    """Units of the pooler, (hidden_size,); None where there is no pooler."""
    heads: list[torch.Tensor] = field(default_factory=list)
    """For each layer (num_attention_heads,)."""
    neurons: list[torch.Tensor] = field(default_factory=list)
    """For each layer (intermediate_size,)."""


class _Taylor:
    """Accumulates |activation x gradient| of the values that pass one point of the network."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None

    def watch(self, value: torch.Tensor) -> None:
        # A hook that held the value itself would keep it, and all it was made from, for good.
        activation = value.detach()
        value.register_hook(lambda gradient: self._add(activation * gradient))

    def _add(self, product: torch.Tensor) -> None:
        per_text = product.sum(dim=1) if product.dim() == 3 else product
        score = per_text.abs().sum(dim=0)
        self.total = score if self.total is None else self.total + score

    @property
    def score(self) -> torch.Tensor:
        if self.total is None:
            raise RuntimeError("no batch was measured")
        return self.total


def measure_importance(model: CompactBert, batches: Iterable[dict[str, torch.Tensor]]) -> Importance:
    """Score all units on batches (the inputs of the model's `forward`).

    The loss is that of their `labels`. Where there are none, as for embeddings, it is the product of the outputs with
    directions drawn at random, whose gradient tells how much the outputs depend on a unit.
    """
    generator = torch.Generator().manual_seed(0)
    layers = model.layers
    context = [_Taylor() for _ in layers]
    neurons = [_Taylor() for _ in layers]
    states = [_Taylor() for _ in range(2 * len(layers) + 1)]
    pooled = _Taylor()
    bert = model.bert
    writers: list[nn.Module] = [bert.embeddings_project or bert.embeddings.LayerNorm]
    hooks = []
    if bert.pooler is not None:
        hooks.append(bert.pooler.register_forward_hook(lambda _m, _i, output: pooled.watch(output)))
    for layer, at_context, at_neurons in zip(layers, context, neurons, strict=True):
        hooks.append(_before(layer.attention.output.dense, at_context))
        hooks.append(_before(layer.output.dense, at_neurons))
        writers += [layer.attention.output.LayerNorm, layer.output.LayerNorm]
    for writer, at_state in zip(writers, states, strict=True):
        hooks.append(writer.register_forward_hook(lambda _m, _i, output, at=at_state: at.watch(output)))
    try:
        model.eval()
        for batch in batches:
            output = model(**batch)
            loss = _along_random_directions(output.logits, generator) if output.loss is None else output.loss
            loss.backward()
            model.zero_grad()
    finally:
        for hook in hooks:
            hook.remove()
    head_size = model.config.attention_head_size
    return Importance(
        hidden=torch.stack([state.score for state in states]).sum(dim=0),
        pooled=None if bert.pooler is None else pooled.score,
        heads=[at.score.unflatten(0, (-1, head_size)).sum(dim=1) for at in context],
        neurons=[at.score for at in neurons],
    )


def _along_random_directions(outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The mean over texts of the product of outputs (batch, ...) with random directions."""
    directions = torch.randn(outputs.shape, generator=generator).to(outputs)
    return (outputs * directions).sum() / len(outputs)


@torch.no_grad()
def magnitude(model: CompactBert) -> Importance:
    """Score all units by the squares of the weights that read or write them. Needs no data."""
    head_size, bert = model.config.attention_head_size, model.bert
    found = Importance(
        hidden=_columns(model.classifier if bert.pooler is None else bert.pooler.dense) + _embedded(bert),
        pooled=None if bert.pooler is None else _rows(bert.pooler.dense) + _columns(model.classifier),
    )
    for layer in model.layers:
        attention, dense = layer.attention.self, layer.attention.output.dense
        projections = (attention.query, attention.key, attention.value)
        context = sum((_rows(projection) for projection in projections), _columns(dense))
        found.heads.append(context.unflatten(0, (-1, head_size)).sum(dim=1))
        found.neurons.append(_rows(layer.intermediate.dense) + _columns(layer.output.dense))
        readers, writers = (*projections, layer.intermediate.dense), (dense, layer.output.dense)
        found.hidden += sum(_columns(linear) for linear in readers) + sum(_rows(linear) for linear in writers)
    return found


def _embedded(bert: CompactBertModel) -> torch.Tensor:
    """For each hidden unit the sum of the squared weights by which the embeddings write it."""
    if bert.embeddings_project is not None:
        return _rows(bert.embeddings_project)
    embeddings = bert.embeddings
    tables = (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings)
    return torch.stack([table.weight.square().sum(dim=0) for table in tables if table is not None]).sum(dim=0)


def _rows(linear: nn.Linear | BlockLinear) -> torch.Tensor:
    """For each output feature the sum of its squared weights."""
    return linear.weight.square().sum(dim=1)


def _columns(linear: nn.Linear | BlockLinear) -> torch.Tensor:
    """For each input feature the sum of its squared weights."""
    return linear.weight.square().sum(dim=0)


def _before(module: nn.Module, taylor: _Taylor) -> torch.utils.hooks.RemovableHandle:
    return module.register_forward_pre_hook(lambda _module, inputs: taylor.watch(inputs[0]))


@torch.no_grad()
def reorder(model: CompactBert, importance: Importance) -> None:
    """Permute the weights in place so that units stand in order of importance. The function is unchanged."""
    head_size = model.config.attention_head_size
    hidden = _order(importance.hidden)
    pooled = hidden if importance.pooled is None else _order(importance.pooled)
    embeddings, projection = model.bert.embeddings, model.bert.embeddings_project
    if projection is not None:  # its outputs are the hidden units, the tables stay as they are
        _permute(projection.weight, 0, hidden)
        _permute(projection.bias, 0, hidden)
    else:
        for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
            if table is not None:
                _permute(table.weight, 1, hidden)
        _permute_norm(embeddings.LayerNorm, hidden)
    for number, layer in enumerate(model.layers):
        heads = _order(importance.heads[number])
        rows = (heads[:, None] * head_size + torch.arange(head_size)).flatten()
        for linear in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
            _permute_linear(linear, rows, hidden)
        _permute_linear(layer.attention.output.dense, hidden, rows)
        _permute_norm(layer.attention.output.LayerNorm, hidden)
        neurons = _order(importance.neurons[number])
        _permute_linear(layer.intermediate.dense, neurons, hidden)
        _permute_linear(layer.output.dense, hidden, neurons)
        _permute_norm(layer.output.LayerNorm, hidden)
    if model.bert.pooler is not None:
        _permute_linear(model.bert.pooler.dense, pooled, hidden)
    _permute(model.classifier.weight, 1, pooled)


def _order(scores: torch.Tensor) -> torch.Tensor:
    return torch.argsort(scores, descending=True, stable=True)


def _permute(parameter: torch.Tensor, dimension: int, order: torch.Tensor) -> None:
    parameter.copy_(parameter.index_select(dimension, order))


def _permute_linear(linear: nn.Linear | BlockLinear, rows: torch.Tensor, columns: torch.Tensor) -> None:
    _permute(linear.weight, 0, rows)
    _permute(linear.weight, 1, columns)
    _permute(linear.bias, 0, rows)


def _permute_norm(norm: nn.LayerNorm, order: torch.Tensor) -> None:
    _permute(norm.weight, 0, order)
    _permute(norm.bias, 0, order)
