"""Measures networks with early exits: one measurement for each layer after which a text can exit.

The record of such a network mixes these measurements in proportion to the share of texts that exit after each layer.
The search and the verification of exports call `measure_with_exits`. For archives of `nas device bundle`,
`at_each_depth` prepares the networks, and `mixed` combines their records.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch

from nas.device import Device
from nas.latency.measure import NO_TEXTS, Network, Texts, measure
from nas.latency.record import LatencyRecord, mixture
from nas.model import CompactBert

_EXIT_BIAS = 100.0
"""A bias for one class that makes the confidence of every text exceed any threshold."""


def measure_with_exits(
    device: Device,
    networks: Mapping[str, Network],
    exits: Mapping[str, Sequence[float]],
    rounds: int,
    title: str,
    texts: Texts = NO_TEXTS,
) -> dict[str, LatencyRecord]:
    """Measure networks as `measure` does, but measure each model with early exits once per depth (number of layers).

    `exits` maps the name of each model with early exits to the share of texts that exit after each layer. For each
    depth, a copy of the model is measured in which all texts exit at this depth. The record `<name>` mixes the
    measurements of all depths in proportion to the shares. The record `<name>/worst` is the measurement with all
    layers.
    """
    return mixed(measure(device, at_each_depth(networks, exits), rounds, title, texts), exits)


def at_each_depth(networks: Mapping[str, Network], exits: Mapping[str, Sequence[float]]) -> dict[str, Network]:
    """Return the networks, with each model that is named in `exits` replaced by one copy per depth (number of layers).

    In the copy named `<name>/<depth>`, all texts exit after `depth` layers.
    """
    expanded: dict[str, Network] = {}
    for name, network in networks.items():
        if name in exits:
            assert isinstance(network, CompactBert)
            expanded |= {f"{name}/{depth}": model for depth, model in _models_by_exit_depth(network)}
        else:
            expanded[name] = network
    return expanded


def mixed(measured: Mapping[str, LatencyRecord], exits: Mapping[str, Sequence[float]]) -> dict[str, LatencyRecord]:
    """Combine the records of all depths of a model into two records, `<name>` and `<name>/worst`.

    `<name>` mixes the measurements of all depths in proportion to the shares in `exits`. `<name>/worst` is the
    measurement with all layers. `measured` holds the records of the networks that `at_each_depth` returned. Records of
    models that are not named in `exits` are returned unchanged.
    """
    records = dict(measured)
    for name, shares in exits.items():
        records_by_depth = [records.pop(f"{name}/{depth}") for depth in range(1, len(shares) + 1)]
        records |= {name: mixture(records_by_depth, shares), f"{name}/worst": records_by_depth[-1]}
    return records


def _models_by_exit_depth(
    model: CompactBert,
) -> Iterator[tuple[int, CompactBert]]:
    """Yield pairs of a depth and a copy of the model in which all texts exit at this depth."""
    for depth in range(1, len(model.layers) + 1):
        forced = copy.deepcopy(model)
        with torch.no_grad():
            for number, layer in enumerate(forced.layers[:-1], 1):
                layer.exit.weight.zero_()
                layer.exit.bias.zero_()
                layer.exit.bias[0] = _EXIT_BIAS if number == depth else 0.0
        yield depth, forced
