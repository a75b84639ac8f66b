"""A supernet is one set of weights and one rule: a sub-network has the leading part of every tensor.

The weights are those of the largest sub-network, ordered so that what matters most comes first. A sub-network is
its own definition (`CompactBertForSequenceClassification`) run on views of these weights, so that what is trained
and evaluated is, by construction, what is extracted; nothing is masked, and a smaller candidate costs less.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch.func import functional_call
from transformers.modeling_outputs import SequenceClassifierOutput

from nas.model import CompactBertForSequenceClassification
from nas.space import Architecture

_LAYER = "bert.encoder.layer."
_KEPT_SKELETONS = 256


class _Leading(torch.autograd.Function):
    """The leading part of a parameter; its gradient goes straight into that part of the parameter's `grad`.

    An ordinary slice would write, for every sub-network, a gradient of the whole parameter that is mostly zeros.
    """

    @staticmethod
    def forward(ctx: Any, parameter: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        ctx.parameter, ctx.part = parameter, tuple(slice(size) for size in shape)
        return parameter.detach()[ctx.part]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None]:
        parameter = ctx.parameter
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad[ctx.part] += gradients[0]
        return None, None


class BertSupernet:
    """All sub-networks of one set of weights.

    `weights` is the largest sub-network itself, an ordinary Hugging Face model: training it trains the supernet,
    and saving it saves the supernet. A single sub-network is a supernet too, with one architecture: its own.
    """

    def __init__(self, weights: CompactBertForSequenceClassification) -> None:
        self.weights = weights
        sources = (layer.source for layer in weights.config.architecture.layers)
        self._layer_of_source = {source: number for number, source in enumerate(sources)}
        self._skeletons: OrderedDict[Architecture, CompactBertForSequenceClassification] = OrderedDict()

    def slices(self, architecture: Architecture) -> dict[str, torch.Tensor]:
        """The sub-network's parameters by name, as views of the supernet's.

        A backward pass through them adds to the `grad` of the supernet's parameters.
        """
        shared = dict(self.weights.named_parameters())
        return {
            name: _Leading.apply(shared[self._name_of(name, architecture)], parameter.shape)
            for name, parameter in self.skeleton(architecture).named_parameters()
        }

    def run(
        self,
        architecture: Architecture,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> SequenceClassifierOutput:
        """The sub-network's output on the shared weights, without dropout; gradients reach the supernet."""
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "output_hidden_states": output_hidden_states,
        }
        return functional_call(self.skeleton(architecture), self.slices(architecture), (), inputs)

    def extract(self, architecture: Architecture) -> CompactBertForSequenceClassification:
        """The sub-network as a model with weights of its own, in evaluation mode."""
        model = CompactBertForSequenceClassification(self.weights.config.with_architecture(architecture))
        with torch.no_grad():
            for name, view in self.slices(architecture).items():
                model.get_parameter(name).copy_(view)
        return model.eval()

    def skeleton(self, architecture: Architecture) -> CompactBertForSequenceClassification:
        """The sub-network's definition without storage (on the meta device), kept for the next time."""
        known = self._skeletons.get(architecture)
        if known is None:
            with torch.device("meta"):
                config = self.weights.config.with_architecture(architecture)
                known = CompactBertForSequenceClassification(config).eval()
            self._skeletons[architecture] = known
            if len(self._skeletons) > _KEPT_SKELETONS:
                self._skeletons.popitem(last=False)
        self._skeletons.move_to_end(architecture)
        return known

    def _name_of(self, name: str, architecture: Architecture) -> str:
        """Where a sub-network's parameter stands here: a layer is found by the teacher's number for it."""
        if not name.startswith(_LAYER):
            return name
        number, rest = name.removeprefix(_LAYER).split(".", 1)
        return f"{_LAYER}{self._layer_of_source[architecture.layers[int(number)].source]}.{rest}"
