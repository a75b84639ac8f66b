"""Measurement workers: each worker measures networks on one device, in a process that does nothing else.

`open_worker` starts the worker of a device: a `LocalWorker` on this machine, or a `RayWorker` on a Ray node.
`measure.py` sends groups of networks to the worker and receives their samples.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

from nas.device import Device
from nas.errors import DeviceError, MachineError
from nas.runtimes import runner, runner_arguments, runtime_of
from nas.waiting import as_served

_WORKER_PROGRAM = f"""
import sys
sys.path.append({str(Path(runner.__file__).parents[2])!r})  # so that nas need not be installed
from nas.latency.worker_process import main
main()
"""
Rounds = Callable[[int], None]
"""A function that receives the number of finished rounds of a group."""


class MeasurementWorker(Protocol):
    """Measures groups of networks on one device, one group at a time.

    The caller writes the networks' files to `folder`. `environment` describes the processor, the runtime and the
    versions that the worker's process uses. A worker is a context manager that ends the process on exit.
    """

    environment: dict[str, Any]
    folder: Path

    def measure(self, group: Mapping[str, Any], progress: Rounds) -> dict[str, Any]:
        """Measure a group and return its samples; see `runner.measure_group`."""

    def peak_memory_mb(self, item: Mapping[str, Any]) -> float | None:
        """Return the peak memory, in 10^6 bytes, of a separate process that serves one network.

        Return None if the operating system does not report the peak memory; see `runner.peak_memory_mb`.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


class LocalWorker(MeasurementWorker):
    """A measurement worker whose process runs on this machine.

    Raises `DeviceError` if the process fails, and `MachineError` if the operating system kills the process.
    """

    def __init__(self, device: Device) -> None:
        self.device, self._runtime = device, runtime_of(device)
        self.folder = Path(tempfile.mkdtemp(prefix="nas-latency-"))
        self._process = self._start()
        self._send(device.model_dump(mode="json"))
        try:
            self.environment: dict[str, Any] = self._read_answer(lambda done: None)
        except BaseException:
            self.__exit__()
            raise

    def _start(self) -> subprocess.Popen[str]:
        # -P keeps files in the working directory from shadowing modules that the process imports.
        runner_program = [runner.__file__, "--lines", *runner_arguments(self._runtime)]
        program = ["-c", _WORKER_PROGRAM] if self._runtime.needs_torch(self.device) else runner_program
        return subprocess.Popen(
            [sys.executable, "-P", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=as_served(),
            start_new_session=True,
        )

    def _send(self, value: Any) -> None:
        with suppress(BrokenPipeError):  # `_read_answer` reports why the process has ended
            self._process.stdin.write(json.dumps(value) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def measure(self, group: Mapping[str, Any], progress: Rounds) -> dict[str, Any]:
        self._send(group)
        measured: dict[str, Any] = self._read_answer(progress)
        return measured

    def peak_memory_mb(self, item: Mapping[str, Any]) -> float | None:
        if not self._runtime.needs_torch(self.device):
            try:
                settings = self.device.model_dump(mode="json")
                return runner.peak_memory_apart(item, settings, runner_arguments(self._runtime))
            except OSError as problem:
                raise DeviceError(
                    f"devices.{self.device.name}: {problem}; check that {self.device.runtime} is installed and runs on "
                    "this device"
                ) from None
        with LocalWorker(self.device) as worker:
            worker._send({"memory": item})
            peak: float | None = worker._read_answer(lambda done: None)
        return peak

    def _read_answer(self, progress: Rounds) -> Any:
        """Return the next answer of the process.

        Raises an error with the last line of the process's output if the process ends without an answer. Raises
        `DeviceError` with the problem and its remedy if the process reports a problem with the device.
        """
        task, last_line = f"measuring with {self.device.runtime} on {self.device.name}", ""
        for line in self._process.stdout or ():
            if line.startswith(runner.ROUND):
                progress(int(line.removeprefix(runner.ROUND)))
            elif line.startswith(runner.ANSWER):
                return json.loads(line.removeprefix(runner.ANSWER))
            elif line.startswith(runner.PROBLEM):
                raise DeviceError(f"{task} failed: {line.removeprefix(runner.PROBLEM).strip()}")
            elif line.strip() != runner.DISTURBED:
                last_line = line.strip() or last_line
        code = self._process.wait()
        if code == -signal.SIGKILL and not last_line:
            raise MachineError(
                f"{task}: the process was killed, probably because memory ran out; close other "
                "programs, or lower the device's batch size, and run the same command again"
            )
        reason = last_line or f"the process ended with exit code {code}"
        raise DeviceError(
            f"{task} failed: {reason}; check that {self.device.runtime} is installed and runs on this device"
        )

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the whole group: libraries may have started processes
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # closing flushes data that a dead process has not read
                pipe.close()  # type: ignore[union-attr]
        shutil.rmtree(self.folder, ignore_errors=True)


def open_worker(device: Device) -> MeasurementWorker:
    """Start the worker of a device.

    Raises `DeviceError` if the device is outside the cluster, or if the worker fails to start.
    """
    if device.where == "here":
        return LocalWorker(device)
    if device.where == "ray":
        from nas.latency.ray_worker import RayWorker

        return RayWorker(device)
    raise DeviceError(
        f"devices.{device.name}: this device is outside the cluster, so nothing can be measured on it from here; "
        f"use `nas device bundle` and `nas device import`"
    )
