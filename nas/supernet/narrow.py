"""What sub-networks of a smaller hidden size have for themselves, beside the weights that all share.

A sub-network with fewer hidden units keeps the leading ones. Its norms are its own, since mean and variance over fewer
units are others. And whoever reads the hidden units gets a linear map that makes up the missing ones from those that
stay: units of a trained BERT depend on each other, so most of what the missing ones say can be said by the rest
(`scripts/bench/ordering` measures how much). The map is folded into the weights that read, so a sub-network has an
ordinary matrix there and runs no slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from nas.model import CompactBertConfig, CompactBertForSequenceClassification
from nas.space import Architecture

_RIDGE = 1e-3
"""Of the mean variance of the units: keeps the fit of the pooled units, one a text, from following noise."""


class SupernetConfig(CompactBertConfig):
    """The configuration of a supernet's weights: that of its largest sub-network, and the smaller hidden sizes."""

    model_type = "compact_bert_supernet"

    narrow_sizes: list[int] | None = None

    def with_architecture(self, architecture: Architecture) -> CompactBertConfig:
        """The configuration of a sub-network."""
        values = self.to_dict()
        values.pop("narrow_sizes")
        return CompactBertConfig(**values).with_architecture(architecture)


class SupernetWeights(CompactBertForSequenceClassification):
    """The largest sub-network, and under `narrow.<hidden_size>` what each smaller hidden size has for itself.

    `norms.<name>` replaces the norm of that name. `missing.<name>` maps the hidden units that stay to those that do
    not, for the module of that name, which reads them; the pooled units are treated alike.
    """

    config: SupernetConfig
    config_class = SupernetConfig

    def __init__(self, config: SupernetConfig) -> None:
        super().__init__(config)
        norms = {name: norm.eps for name, norm in _norms(self)}
        narrow = nn.ModuleDict()
        for size in config.narrow_sizes or []:
            own = nn.Module()
            for name, eps in norms.items():
                _put(own, f"norms.{name}", nn.LayerNorm(size, eps=eps))
            for name in _readers(self):
                _put(own, f"missing.{name}", nn.Linear(size, config.hidden_size - size))
            narrow[str(size)] = own
        self.narrow = narrow

    @classmethod
    def of(cls, largest: CompactBertForSequenceClassification, hidden_sizes: Iterable[int]) -> SupernetWeights:
        """The weights of a supernet that starts as `largest`; what narrow sub-networks need is left to `fit`."""
        narrow = [size for size in hidden_sizes if size != largest.config.hidden_size]
        values: dict[str, Any] = largest.config.to_dict()
        values.pop("num_hidden_layers")
        weights = cls(SupernetConfig(**values, narrow_sizes=narrow))
        weights.load_state_dict(largest.state_dict(), strict=False)
        return weights.eval()

    @torch.no_grad()
    def fit(self, batches: Iterable[dict[str, torch.Tensor]]) -> None:
        """Start narrow sub-networks: their norms as the shared ones, their missing units by least squares.

        `batches` are inputs of `forward`; the error is that on the states of the largest sub-network there.
        """
        moments = {name: _Moments() for name in _readers(self)}
        hooks = [
            self.get_submodule(name).register_forward_pre_hook(lambda _m, inputs, at=at: at.add(inputs[0]))
            for name, at in moments.items()
        ]
        try:
            for batch in batches:
                for at in moments.values():
                    at.mask = batch["attention_mask"].bool()
                self(**batch)
        finally:
            for hook in hooks:
                hook.remove()
        for key, own in self.narrow.items():
            size = int(key)
            for name, norm in _norms(self):
                for part, parameter in norm.named_parameters():
                    own.get_parameter(f"norms.{name}.{part}").copy_(parameter[:size])
            for name, at in moments.items():
                weight, bias = at.regression(size)
                own.get_parameter(f"missing.{name}.weight").copy_(weight)
                own.get_parameter(f"missing.{name}.bias").copy_(bias)


class _Moments:
    """Sums over all tokens that pass one point: what a regression of some units on others needs."""

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None
        self.count = 0
        self.total: Any = 0.0
        self.products: Any = 0.0

    def add(self, value: torch.Tensor) -> None:
        tokens = (value[self.mask] if value.dim() == 3 else value).double()
        self.count += len(tokens)
        self.total = self.total + tokens.sum(dim=0)
        self.products = self.products + tokens.T @ tokens

    def regression(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (missing, size) and bias (missing,) of the units from `size` on, given those before."""
        mean = self.total / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        own = covariance[:size, :size]
        ridge = _RIDGE * own.diagonal().mean() * torch.eye(size, dtype=own.dtype)
        weight = torch.linalg.solve(own + ridge, covariance[:size, size:]).T
        return weight, mean[size:] - weight @ mean[:size]


def reader_of(module: str) -> str | None:
    """The name under which a linear layer's input is completed; None where it reads no hidden or pooled units."""
    joint, _, last = module.rpartition(".")
    if last in ("query", "key", "value"):
        return joint  # the three read the same
    return module if module.endswith(("intermediate.dense", "pooler.dense", "classifier")) else None


def _readers(model: CompactBertForSequenceClassification) -> list[str]:
    linear = (name for name, module in _shared(model) if isinstance(module, nn.Linear))
    return list(dict.fromkeys(reader for reader in map(reader_of, linear) if reader))


def _norms(model: CompactBertForSequenceClassification) -> Iterator[tuple[str, nn.LayerNorm]]:
    """The norms over hidden units: not that of embeddings of a width of their own."""
    for name, module in _shared(model):
        if isinstance(module, nn.LayerNorm) and len(module.weight) == model.config.hidden_size:
            yield name, module


def _shared(model: CompactBertForSequenceClassification) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if not name.startswith("narrow."))


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register a module under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
