"""Measuring networks on a device: written to a temporary folder, timed in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nas.errors import DeviceError
from nas.latency.record import LatencyRecord
from nas.latency.runtimes import BlockChain, runtime_of
from nas.model import CompactBertConfig, CompactBertForSequenceClassification
from nas.model.configuration import INPUTS
from nas.progress import track
from nas.study import Device

Network = CompactBertForSequenceClassification | tuple[BlockChain, CompactBertConfig] | Path
"""A model, a chain of blocks, or a file that a runtime can load (the exported artefact itself)."""


def measure(
    device: Device,
    networks: Mapping[str, Network],
    rounds: int,
    title: str,
    vocab_size: int | None = None,
    tokens: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, LatencyRecord]:
    """Time networks on a device, in turns, in one fresh process.

    Each is fed texts of all the device's lengths, as often, and the samples are put together; those named in `tokens`
    are fed that length alone.
    `vocab_size` bounds the token ids fed to files; models bring their own. Raises `DeviceError` if the
    measuring process fails.
    """
    runtime = runtime_of(device.runtime)
    with tempfile.TemporaryDirectory(prefix="nas-latency-") as folder:
        items = []
        for number, (name, network) in enumerate(networks.items()):
            path = Path(folder) / f"{number}.network"
            lengths = (tokens[name],) if name in tokens else device.lengths
            if isinstance(network, Path):
                path = network
                inputs = _token_inputs(device, lengths, vocab_size or 1)
            elif isinstance(network, tuple):
                runtime.write_chain(*network, path)
                inputs = _hidden_inputs(device, lengths, network[1].hidden_size)
            else:
                runtime.write_model(network, path)
                inputs = _token_inputs(device, lengths, network.config.vocab_size)
            items.append({"name": name, "path": str(path), "inputs": inputs})
        job = {"runtime": device.runtime, "threads": device.threads, "rounds": rounds, "networks": items}
        result = _run_worker(job, rounds, title)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        name: LatencyRecord(tuple(samples), device, result["environment"], now)
        for name, samples in result["samples_ms"].items()
    }


def _token_inputs(device: Device, lengths: Iterable[int], vocab_size: int) -> list[dict[str, Any]]:
    """For each length all that a network may be fed; the runtime leaves out what it does not take."""
    ids, mask, types = INPUTS
    return [
        {
            ids: {"kind": "ids", "shape": [device.batch_size, length], "below": vocab_size},
            mask: {"kind": "ones", "shape": [device.batch_size, length]},
            types: {"kind": "ids", "shape": [device.batch_size, length], "below": 1},
        }
        for length in lengths
    ]


def _hidden_inputs(device: Device, lengths: Iterable[int], hidden_size: int) -> list[dict[str, Any]]:
    return [
        {
            "hidden": {"kind": "float", "shape": [device.batch_size, length, hidden_size]},
            "attention_mask": {"kind": "ones", "shape": [device.batch_size, length]},
        }
        for length in lengths
    ]


def _run_worker(job: dict[str, Any], rounds: int, title: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "nas.latency.worker"]
    with (
        tempfile.TemporaryFile("w+") as job_file,
        tempfile.TemporaryFile("w+") as output,
        track(title, rounds) as progress,
    ):
        json.dump(job, job_file)
        job_file.seek(0)
        process = subprocess.Popen(command, stdin=job_file, stdout=output, stderr=subprocess.PIPE, text=True)
        last = ""
        try:
            for line in process.stderr or ():
                last = line.strip() or last
                if line.startswith("round "):
                    progress(int(line.split()[1]))
            code = process.wait()
        finally:
            process.kill()
        if code != 0:
            raise DeviceError(f"measuring with {job['runtime']} failed: {last}; see that the runtime works here")
        output.seek(0)
        result: dict[str, Any] = json.load(output)
        return result
