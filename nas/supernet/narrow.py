"""What sub-networks of a smaller hidden size have for themselves, beside the weights that all share.

A sub-network with fewer hidden units keeps the leading ones. Its norms are its own, since mean and variance over fewer
units are others. And whoever reads the hidden units gets a linear map that makes up the missing ones from those that
stay: units of a trained BERT depend on each other, so most of what the missing ones say can be said by the rest
(`scripts/bench/ordering` measures how much). The map is folded into the weights that read, so a sub-network has an
ordinary matrix there and runs no slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from nas.model import CompactBert
from nas.model.layers import BlockLinear
from nas.supernet.moments import Moments

_RIDGE = 1e-3


class Narrow(nn.Module):
    """What sub-networks of one smaller hidden size have for themselves.

    `norms.<name>` replaces the norm of that name. `missing.<name>` maps the hidden units that stay to those that do
    not, for the module of that name, which reads them; the pooled units are treated alike.
    """

    def __init__(self, model: CompactBert, size: int) -> None:
        super().__init__()
        self.size = size
        for name, norm in norms_of(model).items():
            _put(self, f"norms.{name}", nn.LayerNorm(size, eps=norm.eps))
        for name in readers_of(model):
            _put(self, f"missing.{name}", nn.Linear(size, model.config.hidden_size - size))

    def fit(self, norms: Mapping[str, nn.LayerNorm], read: Mapping[str, Moments]) -> None:
        """Start as the shared norms, and with the least error in making up what modules `read`."""
        for name, norm in norms.items():
            for part, parameter in norm.named_parameters():
                self.get_parameter(f"norms.{name}.{part}").copy_(parameter[: self.size])
        for name, moments in read.items():
            weight, bias = moments.regression(self.size, _RIDGE)
            self.get_parameter(f"missing.{name}.weight").copy_(weight)
            self.get_parameter(f"missing.{name}.bias").copy_(bias)


def reader_of(module: str) -> str | None:
    """The name under which a linear layer's input is completed; None where it reads neither hidden nor pooled units."""
    joint, _, last = module.rpartition(".")
    if last in ("query", "key", "value"):
        return joint  # the three read the same
    return module if module.endswith(("intermediate.dense", "pooler.dense", "classifier", ".exit")) else None


def readers_of(model: CompactBert) -> list[str]:
    """The names under which the inputs of a model's linear layers are completed."""
    linear = (name for name, module in _shared(model) if isinstance(module, nn.Linear | BlockLinear))
    return list(dict.fromkeys(reader for reader in map(reader_of, linear) if reader))


def norms_of(model: CompactBert) -> dict[str, nn.LayerNorm]:
    """The norms over hidden units: not that of embeddings of a width of their own."""
    return {
        name: module
        for name, module in _shared(model)
        if isinstance(module, nn.LayerNorm) and len(module.weight) == model.config.hidden_size
    }


def _shared(model: CompactBert) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if not name.startswith("narrow."))


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register a module under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
