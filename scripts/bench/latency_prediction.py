"""Measure the error of predicted latencies.

The benchmark builds a profile for each runtime and tests it on 24 complete sub-networks. The profile is not fitted to
these sub-networks. The device has one thread, batch size 1 and texts of 128 tokens. With `--busy`, another process
keeps one more core busy during the measurement.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import common
from rich.console import Console

from nas.device import Device
from nas.latency.profiling import ProfileRecipe, build_profile
from nas.runtimes import check_runtime
from nas.space import SearchSpace

CASES: dict[str, dict[str, Any]] = {
    "onnxruntime": {"runtime": "onnxruntime"},
    "onnxruntime, int8 mixtures": {"runtime": "onnxruntime"},
    "torch": {"runtime": "torch"},
    "torch, compiled": {"runtime": "torch", "compiled": True},
    "openvino": {"runtime": "openvino"},
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build the profile of each case, print the errors of the profiles, and return the errors, keyed by case."""
    full_space, errors = SearchSpace.load(arguments.space), dict[str, Any]()
    for case, settings in CASES.items():
        if arguments.only and case not in arguments.only:
            continue
        space = full_space if "int8" in case else full_space.excluding(("int8",))
        device = Device(name=case.split(",")[0], sequence_length=arguments.tokens, **settings)
        check_runtime(device)
        started = time.monotonic()
        name = case.replace(", ", "-").replace(" ", "-")
        samples = arguments.keep / f"{name}.samples.json" if arguments.keep else None
        recipe = ProfileRecipe(device, space, common.config_of(space), arguments.seed)
        with common.busy_core() if arguments.busy else nullcontext():
            profile = build_profile(recipe, f"{recipe.digest}, busy: {arguments.busy}", samples)
        errors[case] = profile.error | {"seconds": round(time.monotonic() - started), "noisy": profile.noisy}
        if arguments.keep:
            profile.save(arguments.keep / f"{name}.json")
    title = "predicted vs. measured latency of held-out sub-networks" + (", one core busy" if arguments.busy else "")
    table = common.table(title, "", "mean error", "worst", "Kendall tau", "networks", "seconds")
    for case, error in errors.items():
        figures = (f"{error['mape']:.1%}", f"{error['worst']:.1%}", f"{error['kendall_tau']:.3f}")
        table.add_row(case, *figures, str(error["networks"]), str(error["seconds"]))
    Console().print(table)
    return errors


if __name__ == "__main__":
    parser = common.parser(__doc__, with_study=False)
    parser.add_argument("--space", default="minilm-l6", help="name of a shipped search space, or path of a TOML file")
    parser.add_argument("--only", action="append", choices=list(CASES), help="measure only this case; may be repeated")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--busy", action="store_true", help="keep one more core busy during the measurement")
    parser.add_argument("--keep", type=Path, help="folder in which to save the profiles and their samples")
    common.run_benchmark(parser.parse_args(), measure)
