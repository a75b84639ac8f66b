"""Additional parameters of sub-networks whose hidden size is smaller than that of the supernet.

Such a sub-network keeps the leading hidden units. It has its own layer norms, because the mean and the variance over
fewer units differ. For each linear layer that reads hidden units, a linear projection predicts the missing units from
the units that are kept. The units of a trained BERT depend on each other, so most of the information in the missing
units can be predicted (`scripts/bench/ordering` measures how much). The projection is multiplied into the weights of
the linear layer, so it does not make the sub-network slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import nn

from nas.model import CompactBert
from nas.model.axes import Axis
from nas.model.layers import BlockLinear
from nas.supernet.moments import Moments

_RIDGE = 1e-3
_SEARCHED_AXES = (Axis.HIDDEN, Axis.POOLED)


class Narrow(nn.Module):
    """The additional parameters for one hidden size that is smaller than the supernet's.

    `norms.<name>` replaces the layer norm `<name>` of the supernet. `missing.<name>` is the linear projection that
    predicts the hidden or pooled units missing from the input of a linear layer (see `readers_of`). The projection has
    a bias only if the linear layer has one.
    """

    def __init__(self, model: CompactBert, size: int) -> None:
        super().__init__()
        self.size = size
        for name, norm in norms_of(model).items():
            _register(self, f"norms.{name}", nn.LayerNorm(size, eps=norm.eps, bias=norm.bias is not None))
        for module, name in readers_of(model).items():
            has_bias = model.get_submodule(module).bias is not None
            _register(self, f"missing.{name}", nn.Linear(size, model.config.hidden_size - size, bias=has_bias))

    def fit(self, norms: Mapping[str, nn.LayerNorm], read: Mapping[str, Moments]) -> None:
        """Copy the layer norms from `norms`, and fit the projections by least squares.

        `norms` holds the supernet's layer norms, keyed by module name. `read` holds the moments of the input of each
        projection, keyed by the projection's name.
        """
        for name, norm in norms.items():
            for part, parameter in norm.named_parameters():
                self.get_parameter(f"norms.{name}.{part}").copy_(parameter[: self.size])
        for name, moments in read.items():
            missing = cast(nn.Linear, self.get_submodule(f"missing.{name}"))
            weight, constant = moments.regression(self.size, _RIDGE, constant=missing.bias is not None)
            missing.weight.copy_(weight)
            if missing.bias is not None:
                missing.bias.copy_(constant)


def readers_of(model: CompactBert) -> dict[str, str]:
    """Map each linear layer that reads hidden or pooled units to the projection that predicts its missing inputs.

    A key is the name of a linear layer. A value is the name of a projection in `Narrow`, without the prefix `missing.`.
    A projection has the name of its linear layer. If several linear layers of a module read the same input, they share
    a projection, which has the name of the module.
    """
    map_names = {}
    for name, module in model.named_modules():
        axes = getattr(module, "axes", ())
        if isinstance(module, nn.Linear | BlockLinear) and axes and axes[1] in _SEARCHED_AXES:
            parent, _, last = name.rpartition(".")
            shares_input = last in getattr(model.get_submodule(parent), "same_input", ())
            map_names[name] = parent if shares_input else name
    return map_names


def norms_of(model: CompactBert) -> dict[str, nn.LayerNorm]:
    """Return the layer norms over hidden or pooled units, keyed by module name."""
    modules = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.LayerNorm))
    return {name: module for name, module in modules if getattr(module, "axes", (None,))[0] in _SEARCHED_AXES}


def _register(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register a module under a dotted name. Missing parent modules are created."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
