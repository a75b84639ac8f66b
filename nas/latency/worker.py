"""The process that measures and does nothing else. Run as `python -m nas.latency.worker`.

Reads one JSON job from standard input and writes one JSON result to standard output. The networks of a job are
measured in turns, in an order drawn anew for every round, so that a disturbance of the machine meets all alike.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.latency.runtimes import load

_ROUND_SECONDS = 0.08
_MOST_SAMPLES, _FEWEST_SAMPLES = 12, 2
_WARM_UP_RUNS = 3


def main() -> None:
    """Measure the job on standard input."""
    job = json.load(sys.stdin)
    rng = random.Random(0)
    networks = {item["name"]: _prepare(item, job) for item in job["networks"]}
    pace = {name: sum(map(_warm_up, runs)) for name, runs in networks.items()}
    samples: dict[str, list[float]] = {name: [] for name in networks}
    gc.collect()
    gc.disable()
    for done in range(job["rounds"]):
        order = sorted(networks)
        rng.shuffle(order)
        for name in order:
            count = int(min(max(_ROUND_SECONDS / pace[name], _FEWEST_SAMPLES), _MOST_SAMPLES))
            for run in networks[name]:
                run()
                samples[name] += [_time(run) * 1e3 for _ in range(count)]
        print(f"round {done + 1}", file=sys.stderr, flush=True)
    json.dump({"samples_ms": samples, "environment": environment(job["runtime"])}, sys.stdout)


def _prepare(item: dict[str, Any], job: dict[str, Any]) -> list[Callable[[], Any]]:
    """The network on each of its inputs."""
    rng = np.random.default_rng(0)
    every = [{name: _value(spec, rng) for name, spec in inputs.items()} for inputs in item["inputs"]]
    return load(job["runtime"], Path(item["path"]), job["threads"], every)


def _value(spec: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    if spec["kind"] == "float":
        return rng.standard_normal(spec["shape"], dtype=np.float32)
    if spec["kind"] == "ones":
        return np.ones(spec["shape"], dtype=np.int64)
    return rng.integers(0, spec["below"], spec["shape"], dtype=np.int64)


def _warm_up(run: Callable[[], Any]) -> float:
    return min(_time(run) for _ in range(_WARM_UP_RUNS))


def _time(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def environment(runtime: str) -> dict[str, Any]:
    """What the figures depend on: processor, its instructions, operating system, runtime and versions."""
    described = {
        "processor": _cpuinfo("model name") or platform.processor(),
        "instructions": hashlib.sha256(_cpuinfo("flags").encode()).hexdigest()[:16],
        "bf16": "bf16" in _cpuinfo("flags"),
        "vnni": "vnni" in _cpuinfo("flags"),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "python": platform.python_version(),
        "runtime": runtime,
        "runtime_version": importlib.import_module(runtime).__version__,
    }
    text = json.dumps(described, sort_keys=True)
    return described | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _cpuinfo(key: str) -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
