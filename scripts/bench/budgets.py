"""Measure whether exports meet random latency budgets, and how much of each budget they use.

For each budget, architectures are measured as in `nas search`, starting with those that are predicted to use the
largest part of the budget. The first architecture that meets the budget is exported to ONNX and measured again in a new
process. All weights are random, because accuracy does not matter for this measurement.

Both measurements also include the largest sub-network, interleaved with the other networks. The ratio of its two
latencies shows how much faster the machine was during the second measurement. From this ratio, the benchmark computes
how much of the budget the export would have used if the machine's speed had not changed.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import common
from rich.console import Console
from rich.table import Table

from nas.architecture import Architecture
from nas.budget import Budget
from nas.device import Device
from nas.evaluate import CandidateResult
from nas.latency.measure import NO_TEXTS, Texts, measure
from nas.latency.networks import write_network
from nas.latency.profile import Profile
from nas.latency.profiling import ProfileRecipe, build_profile
from nas.latency.record import LatencyRecord
from nas.model import CompactBert
from nas.search.costs import Costs
from nas.search.selection import Measurement, measure_budget
from nas.space import SearchSpace
from nas.supernet import BertSupernet

DEVICES = (
    Device(name="1-thread-128-tokens"),
    Device(name="2-threads-batch-8-32-tokens", threads=2, batch_size=8, sequence_length=32),
    Device(name="1-thread-16-or-40-tokens", sequence_length={16: 2, 40: 1}),
)
_CANDIDATES = 300
"""The number of random architectures of all sizes from which the network for a budget is chosen."""
_LEAST_USE = 0.85


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Export a network for each of `pairs` random budgets, print the results, and return how many budgets were met."""
    space, rng = SearchSpace.load(arguments.space), random.Random(arguments.seed)
    config = common.config_of(space)
    supernet = BertSupernet(CompactBert(config).eval())
    devices = [device for device in DEVICES if not arguments.only or device.name in arguments.only]
    profiles = {
        device.name: build_profile(ProfileRecipe(device, space, config, arguments.seed), "") for device in devices
    }
    records = []
    for number in range(arguments.pairs):
        profile = profiles[rng.choice(devices).name]
        limit = _limit(profile, rng)
        budget = Budget(name=f"{number}", device=profile.device.name, p50_ms=limit)
        costs = Costs(config, profiles, (budget,))
        results = _candidates(space, costs, budget, rng)
        measurement = Measurement(supernet.extract, space.largest(), costs, NO_TEXTS)
        measured, _ = measure_budget(measurement, results, budget, 4)
        chosen = next((item for item in measured if item["met"]), None)
        record = {"device": profile.device.name, "limit_ms": limit, "met_when_chosen": chosen is not None}
        if chosen:
            architecture = Architecture.from_json(chosen["architecture"])
            export, largest = _measured_again(supernet, profile.device, [architecture, space.largest()])
            export_ms, noise = export.p50_ms, export.spread
            speed_up = chosen["teacher_p50_ms"] / largest.p50_ms
            record |= {
                "p50_ms": export_ms,
                "noise": noise,
                "used": export_ms / limit,
                "met": export_ms <= limit * (1.0 + noise),
            }
            record |= {"machine_faster": speed_up, "used_at_same_speed": export_ms * speed_up / limit}
        records.append(record)
        _show(record)
    met = [record for record in records if record.get("met")]
    return {
        "pairs": len(records),
        "met": len(met),
        "within_without_noise": sum(record["p50_ms"] <= record["limit_ms"] for record in met),
        "used_at_least_85_percent": sum(record["used"] >= _LEAST_USE for record in met),
        "least_used": min((record["used"] for record in met), default=0.0),
        "used_at_least_85_percent_at_same_speed": sum(record["used_at_same_speed"] >= _LEAST_USE for record in met),
        "profiles": {name: profile.error for name, profile in profiles.items()},
        "records": records,
    }


def _limit(profile: Profile, rng: random.Random) -> float:
    """Return a random limit from a log-uniform distribution.

    It is between twice the latency of the smallest network and 0.9 times the latency of the teacher.
    """
    low, high = math.log(2.0 * profile.smallest_p50_ms), math.log(0.9 * profile.teacher_p50_ms)
    return math.exp(rng.uniform(low, high))


def _candidates(space: SearchSpace, costs: Costs, budget: Budget, rng: random.Random) -> list[CandidateResult]:
    """Return random architectures with simulated accuracies.

    The accuracy increases with the share of the budget that the architecture is predicted to use.
    """
    architectures = {space.sample(rng, size=rng.random()) for _ in range(_CANDIDATES)}
    return [
        CandidateResult(architecture, 1.0 + costs.violation(architecture, budget), 0, 0.0)
        for architecture in architectures
    ]


def _measured_again(supernet: BertSupernet, device: Device, networks: list[Architecture]) -> list[LatencyRecord]:
    """Export networks, measure them interleaved with each other in a separate process, and return their latencies."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {str(number): Path(folder) / f"{number}.onnx" for number in range(len(networks))}
        for path, architecture in zip(paths.values(), networks, strict=True):
            write_network(supernet.extract(architecture), device, path)
        texts = Texts(vocab_size=supernet.weights.config.vocab_size)
        records = measure(device, paths, device.repeats, "Measuring the export again", texts)
    return [records[name] for name in paths]


def _show(record: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    result = "no candidate met the budget"
    if "p50_ms" in record:
        result = f"{record['p50_ms']:.3f} ms, {record['used']:.0%} used"
        result += f", {record['used_at_same_speed']:.0%} at the earlier speed"
    table.add_row(record["device"], f"limit {record['limit_ms']:.3f} ms", result)
    Console().print(table)


if __name__ == "__main__":
    parser = common.parser(__doc__, with_study=False)
    parser.add_argument("--space", default="minilm-l6", help="name of a shipped search space, or path of a TOML file")
    parser.add_argument("--pairs", type=int, default=20, help="number of random budgets")
    parser.add_argument(
        "--only", action="append", choices=[device.name for device in DEVICES], help="only this device; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0)
    common.run_benchmark(parser.parse_args(), measure_all)
