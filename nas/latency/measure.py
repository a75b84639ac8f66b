"""Measuring networks on a device: written to a temporary folder, timed in a fresh process.

Networks are handed over in groups, each measured in turns, so that neither disk nor memory has to hold all of them.
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
from nas.latency.lanes import Lane, open_lane
from nas.latency.record import LatencyRecord, pooled
from nas.latency.runtimes import BlockChain, runtime_of
from nas.limits import working_on
from nas.model import CompactBert, CompactBertConfig
from nas.model.configuration import INPUTS
from nas.progress import Tracker, say, track

Network = CompactBert | tuple[BlockChain, CompactBertConfig] | Path
"""A model, a chain of blocks, or a file that a runtime can load (the exported artefact itself)."""
GROUP = 40
"""How many networks are measured in turns, besides their reference."""
REFERENCE = "reference"
"""The name of a reference that is no result by itself."""
Keep = Callable[[dict[str, LatencyRecord]], None]


@dataclass(frozen=True)
class Texts:
    """What networks are fed: token ids of real texts, one after the other, and how many tokens there are."""

    ids: tuple[int, ...] = ()
    """Random ids where there are none."""
    vocab_size: int = 1
    """For networks that are files; models know their own."""

    def rows(self, batch_size: int, length: int, vocab_size: int) -> list[list[int]]:
        """Token ids (batch_size, length), all below `vocab_size`."""
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
    """Time networks on a device, in one fresh process, those of a group in turns.

    The first network is the reference: it is measured with every group, and tells how fast the machine was then. The
    records of several groups are put on one scale by it; where its name is `REFERENCE` that is left to the caller,
    who finds it as `reference_ms` in each record.

    Each is fed texts of all the device's lengths, as often, and the samples are put together; those named in `tokens`
    are fed that length alone. `keep` is given the records of each group as soon as they are there. Raises
    `DeviceError` if the measuring process fails.
    """
    groups = grouped(networks)
    parts: list[dict[str, LatencyRecord]] = []
    with open_lane(device) as lane, track(title, rounds * len(groups)) as progress:
        for number, group in enumerate(groups):
            items = [
                item_of(device, name, network, _file(lane, index, network), texts, tokens)
                for index, (name, network) in enumerate(group.items())
            ]
            job = {"networks": items, "rounds": rounds}
            found = lane.measure(job, partial(_advance, progress, number, rounds))
            if found["noisy"]:
                say(f"{device.name}: other work disturbs it; what was measured just now is marked as noisy")
            own = records_of(device, found, lane.environment)
            keep(own)
            parts.append(own)
            for network, item in zip(group.values(), items, strict=True):
                if not isinstance(network, Path):
                    Path(item["file"]).unlink(missing_ok=True)
    return on_one_scale(parts, next(iter(networks), REFERENCE))


def _advance(progress: Tracker, group: int, rounds: int, done: int) -> None:
    """Say how many rounds of all groups are done; a group that is repeated counts once."""
    progress(group * rounds + min(done, rounds))


def grouped(networks: Mapping[str, Network]) -> list[dict[str, Network]]:
    """The networks in groups: the first network, which is the reference, in front of at most `GROUP` others in each."""
    if not networks:
        return []
    reference, *names = networks
    starts = range(0, max(len(names), 1), GROUP)
    return [{name: networks[name] for name in (reference, *names[at : at + GROUP])} for at in starts]


def on_one_scale(groups: Sequence[Mapping[str, LatencyRecord]], reference: str) -> dict[str, LatencyRecord]:
    """The records of several groups as if the machine had been as fast during each: then the reference's medians agree.

    Shares of the reference are those within each group. Records of one group, or of groups whose reference is no
    result, are returned as they are.
    """
    if len(groups) < 2 or reference == REFERENCE:
        return {name: record for group in groups for name, record in group.items()}
    level = median(group[reference].p50_ms for group in groups)
    scaled = [
        {name: record.scaled(level / group[reference].p50_ms) for name, record in group.items()} for group in groups
    ]
    records = {name: record for group in scaled for name, record in group.items()}
    return records | {reference: pooled([group[reference] for group in scaled])}


def measure_peak_memory(device: Device, networks: Mapping[str, Network], texts: Texts) -> dict[str, float]:
    """The most memory that a process holds which serves one of the networks, in 10^6 bytes, each in its own process.

    Left out where the operating system does not say.
    """
    found: dict[str, float] = {}
    with open_lane(device) as lane, track(f"Memory on {device.name}", len(networks)) as progress:
        for number, (name, network) in enumerate(networks.items()):
            peak = lane.peak_memory_mb(item_of(device, name, network, _file(lane, 0, network), texts, {}))
            if peak is not None:
                found[name] = peak
            progress(number + 1)
    return found


def conditions(device: Device) -> dict[str, Any]:
    """What the figures of a device depend on, read there. `fingerprint` sums it up."""
    with open_lane(device) as lane:
        return lane.environment


def item_of(
    device: Device, name: str, network: Network, path: Path, texts: Texts, tokens: Mapping[str, int]
) -> dict[str, Any]:
    """A network's entry in a job: its file, written if it is none yet, and what it is fed."""
    lengths = (tokens[name],) if name in tokens else device.lengths
    with working_on(path):
        return {"name": name, "file": str(path), "inputs": _written(device, network, path, texts, lengths)}


def _written(
    device: Device, network: Network, path: Path, texts: Texts, lengths: Iterable[int]
) -> list[dict[str, Any]]:
    """What a network is fed; its file is written if it is none yet."""
    if isinstance(network, Path):
        return _token_inputs(device, lengths, texts.vocab_size, texts)
    if isinstance(network, tuple):
        runtime_of(device).write_chain(*network, path)
        return _hidden_inputs(device, lengths, network[1].hidden_size, network[0].copies)
    runtime_of(device).write_model(network, path)
    return _token_inputs(device, lengths, network.config.vocab_size, texts)


def records_of(
    device: Device, found: Mapping[str, Any], environment: dict[str, Any], when: str | None = None
) -> dict[str, LatencyRecord]:
    """The records of a measured group; one named `REFERENCE` is no result, but the others get its `reference_ms`."""
    now = when or datetime.now(UTC).isoformat(timespec="seconds")
    records = {
        name: LatencyRecord(
            samples_ms=tuple(sample for taken in every for sample in taken),
            device=device,
            environment=environment,
            measured_at=now,
            spread=found["spread"][name],
            drift=found["drift"],
            noisy=found["noisy"],
        )
        for name, every in found["samples_ms"].items()
    }
    if reference := records.pop(REFERENCE, None):
        return {name: replace(record, reference_ms=reference.best_ms) for name, record in records.items()}
    return records


def _file(lane: Lane, number: int, network: Network) -> Path:
    return network if isinstance(network, Path) else lane.folder / f"{number}.network"


def _token_inputs(device: Device, lengths: Iterable[int], vocab_size: int, texts: Texts) -> list[dict[str, Any]]:
    """For each length all that a network may be fed; the runtime leaves out what it does not take."""
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
    """For each length the states that a chain may read, and the mask."""
    names = ["hidden", *(f"hidden_{copy}" for copy in range(1, copies))]
    return [
        {name: {"kind": "float", "shape": [device.batch_size, length, hidden_size]} for name in names}
        | {"attention_mask": {"kind": "ones", "shape": [device.batch_size, length]}}
        for length in lengths
    ]
