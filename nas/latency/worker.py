"""The process that measures what `runner.py` by itself cannot: PyTorch, and what needs the CUDA that comes with it.

It talks like `runner.py --lines`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.device import Device
from nas.latency.runner import Run, answer
from nas.latency.runtimes import runtime_of


def main() -> None:
    """Answer the lines on standard input."""
    lines = map(json.loads, sys.stdin)
    settings: dict[str, Any] = next(lines)
    device = Device(**settings)
    runtime = runtime_of(device)

    def load(item: Mapping[str, Any], _: Mapping[str, Any], inputs: Sequence[Any]) -> list[Run]:
        return runtime.load(Path(item["file"]), device, inputs)

    answer(settings, lines, load, runtime.clock(device))
