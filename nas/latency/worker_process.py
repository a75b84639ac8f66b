"""The measuring process for devices that `runner.py` cannot measure: those with the runtime PyTorch, and all GPUs.

GPUs need this process with every runtime, because the CUDA libraries come with PyTorch. `workers.py` starts the process
and exchanges lines of JSON with it, as with `runner.py --lines`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.device import Device
from nas.latency.networks import load_network
from nas.runtimes import runtime_of
from nas.runtimes.runner import Run, answer


def main() -> None:
    """Read the device from the first line of standard input, and answer the requests on the following lines."""
    lines = map(json.loads, sys.stdin)
    settings: dict[str, Any] = next(lines)
    device = Device(**settings)
    runtime = runtime_of(device)

    def load(item: Mapping[str, Any], _: Mapping[str, Any], inputs: Sequence[Any]) -> list[Run]:
        return load_network(Path(item["file"]), device, inputs)

    answer(settings, lines, load, runtime.clock(device), runtime.module)
