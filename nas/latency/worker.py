"""The process that measures on this machine. Run as `python -m nas.latency.worker`.

Reads JSON lines from standard input and answers each with one on standard output: first a device, answered by the
environment, then groups of networks. Answers and progress are marked, all else is chatter, or an error at the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.device import Device
from nas.errors import DeviceError
from nas.latency.lanes import ANSWER
from nas.latency.runner import Run, environment, measure_group, peak_memory_mb, prepare_process
from nas.latency.runtimes import runtime_of


def main() -> None:
    """Answer the lines on standard input."""
    lines = map(json.loads, sys.stdin)
    settings: dict[str, Any] = next(lines)
    device = Device(**settings)
    try:
        runtime = runtime_of(device)
        prepare_process(settings)

        def load(item: Mapping[str, Any], _: Mapping[str, Any], inputs: Sequence[Any]) -> list[Run]:
            return runtime.load(Path(item["file"]), device, inputs)

        _reply(environment(settings))
        for group in lines:
            if group.get("memory"):
                _reply(peak_memory_mb(group["memory"], settings, load))
            else:
                _reply(measure_group(group, settings, load, runtime.clock(device), _progress))
    except (DeviceError, OSError) as problem:
        sys.exit(str(problem))


def _reply(value: Any) -> None:
    print(f"{ANSWER}{json.dumps(value)}", flush=True)


def _progress(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
