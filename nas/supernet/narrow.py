"""The parameters of sub-networks with a smaller hidden size, in addition to the weights that all sub-networks share.

A sub-network with fewer hidden units keeps the leading ones. It has its own norms, because the mean and the variance
over fewer units differ. Each module that reads the hidden units also has a linear map that predicts the missing units
from those that stay. The units of a trained BERT depend on each other, so most of the information in the missing units
can be predicted from the rest (`scripts/bench/ordering` measures how much). The map is folded into the weights of the
reading module, so a sub-network has an ordinary matrix there and runs no slower.
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
    """The parameters that only sub-networks of one smaller hidden size use.

    `norms.<name>` replaces the norm of that name. `missing.<name>` is a map that predicts the missing hidden units from
    those that stay, for the module of that name. Missing pooled units are predicted in the same way. The map has a
    constant if the module has a bias that can absorb it.
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
        """Initialise the norms from `norms`, the shared norms, and the maps by least squares.

        `read` holds the moments of the inputs of each map, keyed by the name of the map.
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
    """Return the name of the map of missing units for each linear layer that reads hidden or pooled units.

    The result maps the layer's name to the `<name>` in `missing.<name>` (see `Narrow`). This is the layer's name or, if
    several layers of its parent module read the same input and therefore share the map, the name of the parent module.
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
    """Return the norms over hidden or pooled units, keyed by module name."""
    modules = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.LayerNorm))
    return {name: module for name, module in modules if getattr(module, "axes", (None,))[0] in _SEARCHED_AXES}


def _register(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register a module under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
