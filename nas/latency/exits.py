"""Measure networks with early exits: once for each layer after which a text can exit.

The record of such a network is a mixture of these measurements by the shares of texts that exit after each layer. The
search and the verification of exports call `measure_with_exits`; archives use `at_each_depth` and `mixed` separately.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch

from nas.device import Device
from nas.latency.measure import NO_TEXTS, Network, Texts, measure
from nas.latency.record import LatencyRecord, mixture
from nas.model import CompactBert

_CONFIDENT = 100.0
"""A bias for one class with which every text exceeds any confidence threshold."""


def measure_with_exits(
    device: Device,
    networks: Mapping[str, Network],
    exits: Mapping[str, Sequence[float]],
    rounds: int,
    title: str,
    texts: Texts = NO_TEXTS,
) -> dict[str, LatencyRecord]:
    """Time networks as `measure` does, and models with early exits once for each depth.

    `exits` names these models and gives the share of their texts that exits after each layer. For each depth, the
    exits are set so that all texts exit there. The model's record mixes these measurements by the shares; the
    record `<name>/worst` is the measurement of all layers.
    """
    return mixed(measure(device, at_each_depth(networks, exits), rounds, title, texts), exits)


def at_each_depth(networks: Mapping[str, Network], exits: Mapping[str, Sequence[float]]) -> dict[str, Network]:
    """Return the networks, but replace each one named in `exits` by one network per depth, `<name>/<depth>`."""
    every: dict[str, Network] = {}
    for name, network in networks.items():
        if name in exits:
            assert isinstance(network, CompactBert)
            every |= {f"{name}/{depth}": model for depth, model in _forced(network)}
        else:
            every[name] = network
    return every


def mixed(measured: Mapping[str, LatencyRecord], exits: Mapping[str, Sequence[float]]) -> dict[str, LatencyRecord]:
    """Return the records, but replace those of a network's depths by their mixture, `<name>`, and by `<name>/worst`."""
    records = dict(measured)
    for name, shares in exits.items():
        depths = [records.pop(f"{name}/{depth}") for depth in range(1, len(shares) + 1)]
        records |= {name: mixture(depths, shares), f"{name}/worst": depths[-1]}
    return records


def _forced(
    model: CompactBert,
) -> Iterator[tuple[int, CompactBert]]:
    """Yield each depth with a copy of the model in which all texts exit at this depth and not before."""
    for depth in range(1, len(model.layers) + 1):
        forced = copy.deepcopy(model)
        with torch.no_grad():
            for number, layer in enumerate(forced.layers[:-1], 1):
                layer.exit.weight.zero_()
                layer.exit.bias.zero_()
                layer.exit.bias[0] = _CONFIDENT if number == depth else 0.0
        yield depth, forced
