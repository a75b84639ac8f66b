"""Measures the latency and the peak memory of networks on a device.

`measure` writes networks to a temporary folder, and a worker in a new process (see `workers.py`) times them. Networks
are written and timed in groups, so that the disk and the memory need not have room for all networks at once. The
measurements of the networks in a group are interleaved. Profiling, the search and the verification of exports call
`measure`. `bundle.py` uses other functions of this module to write archives and to read their results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import numpy as np

from nas.device import Device
from nas.latency.networks import BlockChain, write_network
from nas.latency.record import LatencyRecord, pooled
from nas.latency.workers import open_worker
from nas.limits import working_on
from nas.model import CompactBert, CompactBertConfig
from nas.model.configuration import INPUTS
from nas.progress import Tracker, say, track

Network = CompactBert | tuple[BlockChain, CompactBertConfig] | Path
"""A model, a chain of blocks with its configuration, or a file that a runtime can load, such as an export."""
GROUP = 40
"""The largest number of networks in a group, not counting the reference network."""
REFERENCE = "reference"
"""The name of a reference network that is measured only to determine how fast the machine is.

`measure` returns no record for this network.
"""
Keep = Callable[[dict[str, LatencyRecord]], None]
"""A function that receives the records of each group as soon as the group has been measured."""


@dataclass(frozen=True)
class Texts:
    """The texts, as token ids, with which networks are measured."""

    ids: tuple[int, ...] = ()
    """The ids of real texts, concatenated. If empty, random ids are used."""
    vocab_size: int = 1
    """The vocabulary size of networks that are given as files.

    The vocabulary size of other networks is read from their configuration.
    """

    def rows(self, batch_size: int, length: int, vocab_size: int) -> list[list[int]]:
        """Return `batch_size` lists of `length` token ids, all below `vocab_size`."""
        if not self.ids:
            return np.random.default_rng(0).integers(0, vocab_size, (batch_size, length)).tolist()
        return (np.resize(np.asarray(self.ids), (batch_size, length)) % vocab_size).tolist()


NO_TEXTS = Texts()


def measure(
    device: Device,
    networks: Mapping[str, Network],
    rounds: int,
    title: str,
    texts: Texts = NO_TEXTS,
    tokens: Mapping[str, int] = MappingProxyType({}),
    keep: Keep = lambda records: None,
) -> dict[str, LatencyRecord]:
    """Measure the latency of networks on a device in a new process, and return the records, keyed by network name.

    The networks are measured in groups (see `grouped`). In each of the `rounds` rounds, all networks of a group are
    timed in random order. The first network is the reference network. It is measured with every group, and shows how
    fast the machine was at that time. If there are several groups, their records are scaled so that the reference
    network has the same median latency in all groups. If the reference network is named `REFERENCE`, the records are
    not scaled. Instead, its latency is stored as `reference_ms` in all other records.

    Each network is fed texts of all the device's lengths, equally often, and its record has the samples of all lengths.
    A network that is named in `tokens` is fed only texts of the length `tokens[name]`. `keep` is called with the
    records of each group as soon as the group has been measured. Raises `DeviceError` if the measuring process fails.
    """
    groups = grouped(networks)
    records_by_group: list[dict[str, LatencyRecord]] = []
    with open_worker(device) as worker, track(title, rounds * len(groups)) as progress:
        for number, group in enumerate(groups):
            items = [
                item_of(device, name, network, worker.folder / f"{index}.network", texts, tokens)
                for index, (name, network) in enumerate(group.items())
            ]
            job = {"networks": items, "rounds": rounds}
            measured = worker.measure(job, partial(_report_progress, progress, number, rounds))
            if measured["noisy"]:
                say(f"{device.name}: other processes disturbed this device; these measurements are marked as noisy")
            group_records = records_of(device, measured, worker.environment)
            keep(group_records)
            records_by_group.append(group_records)
            for network, item in zip(group.values(), items, strict=True):
                if not isinstance(network, Path):
                    Path(item["file"]).unlink(missing_ok=True)
    return on_one_scale(records_by_group, next(iter(networks), REFERENCE))


def _report_progress(progress: Tracker, group: int, rounds: int, done: int) -> None:
    """Report the progress over the rounds of all groups.

    The rounds of a group are counted only once, even if the group is measured repeatedly.
    """
    progress(group * rounds + min(done, rounds))


def grouped(networks: Mapping[str, Network]) -> list[dict[str, Network]]:
    """Divide networks into groups of at most `GROUP` networks.

    The first network is the reference network, which is added to every group.
    """
    if not networks:
        return []
    reference, *names = networks
    starts = range(0, max(len(names), 1), GROUP)
    return [{name: networks[name] for name in (reference, *names[start : start + GROUP])} for start in starts]


def on_one_scale(groups: Sequence[Mapping[str, LatencyRecord]], reference: str) -> dict[str, LatencyRecord]:
    """Merge the records of several groups, scaled as if the machine had been equally fast for all groups.

    Each group is scaled so that the reference network has the same median latency in all groups. Ratios within a group
    do not change. The records are not scaled if there is only one group, or if the reference network is named
    `REFERENCE`.
    """
    if len(groups) < 2 or reference == REFERENCE:
        return {name: record for group in groups for name, record in group.items()}
    common_ms = median(group[reference].p50_ms for group in groups)
    scaled = [
        {name: record.scaled(common_ms / group[reference].p50_ms) for name, record in group.items()} for group in groups
    ]
    records = {name: record for group in scaled for name, record in group.items()}
    return records | {reference: pooled([group[reference] for group in scaled])}


def measure_peak_memory(device: Device, networks: Mapping[str, Network], texts: Texts) -> dict[str, float]:
    """Measure the peak memory of each network, and return it in 10^6 bytes, keyed by network name.

    Each network is served by a separate process, whose peak memory is measured. The result is empty if the operating
    system does not report peak memory.
    """
    peaks: dict[str, float] = {}
    with open_worker(device) as worker, track(f"Memory on {device.name}", len(networks)) as progress:
        for number, (name, network) in enumerate(networks.items()):
            peak = worker.peak_memory_mb(item_of(device, name, network, worker.folder / "0.network", texts, {}))
            if peak is not None:
                peaks[name] = peak
            progress(number + 1)
    return peaks


def conditions(device: Device) -> dict[str, Any]:
    """Return the environment of a device: its processor, its runtime, and the versions of the software.

    The entry `fingerprint` is a hash of all other entries.
    """
    with open_worker(device) as worker:
        return worker.environment


def item_of(
    device: Device, name: str, network: Network, path: Path, texts: Texts, tokens: Mapping[str, int]
) -> dict[str, Any]:
    """Return the entry of a network in a measurement job: its name, its file, and one set of inputs for each length.

    The network is first written to the file `path`. If the network is given as a file, nothing is written, and the
    entry names the given file.
    """
    lengths = (tokens[name],) if name in tokens else device.lengths
    if isinstance(network, Path):
        return {"name": name, "file": str(network), "inputs": _token_inputs(device, lengths, texts.vocab_size, texts)}
    with working_on(path):
        write_network(network, device, path)
        if isinstance(network, tuple):
            inputs = _hidden_inputs(device, lengths, network[1].hidden_size, network[0].copies)
        else:
            inputs = _token_inputs(device, lengths, network.config.vocab_size, texts)
    return {"name": name, "file": str(path), "inputs": inputs}


def records_of(
    device: Device, measured: Mapping[str, Any], environment: dict[str, Any], when: str | None = None
) -> dict[str, LatencyRecord]:
    """Return the records of a measured group, keyed by network name.

    A network named `REFERENCE` gets no record. Its latency is stored as `reference_ms` in all other records.
    """
    measured_at = when or datetime.now(UTC).isoformat(timespec="seconds")
    records = {
        name: LatencyRecord(
            samples_ms=tuple(sample for samples in samples_by_length for sample in samples),
            device=device,
            environment=environment,
            measured_at=measured_at,
            spread=measured["spread"][name],
            drift=measured["drift"],
            noisy=measured["noisy"],
        )
        for name, samples_by_length in measured["samples_ms"].items()
    }
    if reference := records.pop(REFERENCE, None):
        return {name: replace(record, reference_ms=reference.best_ms) for name, record in records.items()}
    return records


def _token_inputs(device: Device, lengths: Iterable[int], vocab_size: int, texts: Texts) -> list[dict[str, Any]]:
    """For each length, return all inputs that a network may have: token ids, attention mask and token types.

    The runtime ignores inputs that the network lacks.
    """
    ids, mask, types = INPUTS
    return [
        {
            ids: {"kind": "ids", "values": texts.rows(device.batch_size, length, vocab_size)},
            mask: {"kind": "ones", "shape": [device.batch_size, length]},
            types: {"kind": "zeros", "shape": [device.batch_size, length]},
        }
        for length in lengths
    ]


def _hidden_inputs(device: Device, lengths: Iterable[int], hidden_size: int, copies: int) -> list[dict[str, Any]]:
    """For each length, return the inputs of a chain of blocks: hidden states and the attention mask.

    `copies` is the number of inputs with hidden states.
    """
    names = ["hidden", *(f"hidden_{copy}" for copy in range(1, copies))]
    return [
        {name: {"kind": "float", "shape": [device.batch_size, length, hidden_size]} for name in names}
        | {"attention_mask": {"kind": "ones", "shape": [device.batch_size, length]}}
        for length in lengths
    ]
