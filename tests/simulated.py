"""A measurement worker whose latencies follow from the sizes of files, instead of the time that networks take.

A real measurement of tiny networks depends on what else the machine is doing, and takes up to three attempts on a busy
one. Tests of anything but measurement therefore use this worker, which gives the same latencies in every run. The real
measurement is tested in `latency/`, `runtimes/` and `contracts/test_runtime.py`, and in a whole study by
`test_pipeline.py`.

Tests use the fixture `simulated_times`, fixtures with a wider scope use `times`, and programs in other processes call
`install`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nas.latency.measure  # noqa: F401
from nas.device import Device
from nas.latency import workers
from nas.pipeline import Run, export
from nas.pipeline.reports import report
from nas.runtimes import runner
from nas.study import Study

RUN = "import simulated; simulated.install(); from nas.cli import main; main()"
"""A program like `nas`, with simulated times."""
_MEASURE = sys.modules["nas.latency.measure"]  # `nas.latency` has a function of the same name
_SAMPLES = 12
MS_PER_BYTE_AND_TOKEN = 1e-7


class SimulatedWorker:
    """Measures networks on this machine: the time of a run is proportional to the size of the file and of the batch."""

    def __init__(self, device: Device) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nas-latency-"))
        self.environment = runner.environment(device.model_dump(mode="json"))

    def measure(self, group: Mapping[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
        samples = {item["name"]: samples_ms(item, Path(item["file"]).stat().st_size) for item in group["networks"]}
        progress(group["rounds"])
        return {"samples_ms": samples, "spread": dict.fromkeys(samples, 0.0), "drift": 0.0, "noisy": False}

    def peak_memory_mb(self, item: Mapping[str, Any]) -> float:
        return 10.0 + Path(item["file"]).stat().st_size / 1e6

    def __enter__(self) -> SimulatedWorker:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def samples_ms(item: Mapping[str, Any], size: int) -> list[list[float]]:
    """Return the samples of a network whose file has `size` bytes: one list per set of inputs, of equal times."""
    shapes = [inputs["attention_mask"]["shape"] for inputs in item["inputs"]]
    return [[size * batch * tokens * MS_PER_BYTE_AND_TOKEN] * _SAMPLES for batch, tokens in shapes]


@contextmanager
def times() -> Iterator[None]:
    """Replace the measurement on this machine during the block."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        yield


def finished_run(study: Path) -> Run:
    """Return a run of a study file, in `runs` next to it, after exporting its networks and writing its report."""
    run = Run.of(Study.load(study), study.parent / "runs")
    with times():
        export(run)
        report(run)
    return run


def install(patch: pytest.MonkeyPatch | None = None) -> None:
    """Replace the measurement on this machine. Without `patch`, it is replaced until the process ends."""

    def open_worker(device: Device) -> Any:
        return SimulatedWorker(device) if device.where == "here" else workers.open_worker(device)

    (patch or pytest.MonkeyPatch()).setattr(_MEASURE, "open_worker", open_worker)
