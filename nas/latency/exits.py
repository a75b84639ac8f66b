"""Networks that texts leave early: measured once for each layer that they can be left after."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch

from nas.device import Device
from nas.latency.measure import NO_TEXTS, Network, Texts, measure
from nas.latency.record import LatencyRecord, mixture
from nas.model import CompactBert

_SURE = 100.0
"""A bias for one class that no threshold withstands."""


def measure_with_exits(
    device: Device,
    networks: Mapping[str, Network],
    exits: Mapping[str, Sequence[float]],
    rounds: int,
    title: str,
    texts: Texts = NO_TEXTS,
) -> dict[str, LatencyRecord]:
    """Like `measure`; those named in `exits` are models that their texts leave after each layer in these shares.

    Such a model is measured once for each depth, the exits made to let all through or nobody. Its record mixes those
    measurements by the shares; under `<name>/worst` stands that of all layers.
    """
    return mixed(measure(device, at_each_depth(networks, exits), rounds, title, texts), exits)


def at_each_depth(networks: Mapping[str, Network], exits: Mapping[str, Sequence[float]]) -> dict[str, Network]:
    """The networks, those that texts leave early once for each depth, as `<name>/<depth>`."""
    every: dict[str, Network] = {}
    for name, network in networks.items():
        if name in exits:
            assert isinstance(network, CompactBert)
            every |= {f"{name}/{depth}": model for depth, model in _forced(network)}
        else:
            every[name] = network
    return every


def mixed(measured: Mapping[str, LatencyRecord], exits: Mapping[str, Sequence[float]]) -> dict[str, LatencyRecord]:
    """The records of `at_each_depth`, those of one network put together."""
    records = dict(measured)
    for name, shares in exits.items():
        depths = [records.pop(f"{name}/{depth}") for depth in range(1, len(shares) + 1)]
        records |= {name: mixture(depths, shares), f"{name}/worst": depths[-1]}
    return records


def _forced(
    model: CompactBert,
) -> Iterator[tuple[int, CompactBert]]:
    """The model once for each depth, with exits that all texts take there and nowhere before."""
    for depth in range(1, len(model.layers) + 1):
        forced = copy.deepcopy(model)
        with torch.no_grad():
            for number, layer in enumerate(forced.layers[:-1], 1):
                layer.exit.weight.zero_()
                layer.exit.bias.zero_()
                layer.exit.bias[0] = _SURE if number == depth else 0.0
        yield depth, forced
