"""The runtimes: the libraries that execute networks, on this machine and on other devices.

Each runtime has its own module and an entry in `RUNTIMES`. `runner.py` is the program that measures networks.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection

from nas.errors import DeviceError
from nas.runtimes.base import DeviceSettings, FileRuntime, ModuleRuntime, Operation, Runtime, runner_arguments
from nas.runtimes.onnx_runtime import OnnxRuntime
from nas.runtimes.open_vino import OpenVino
from nas.runtimes.pytorch import Torch

__all__ = [
    "DeviceSettings",
    "FileRuntime",
    "ModuleRuntime",
    "ONNX_RUNTIME",
    "Operation",
    "RUNTIMES",
    "Runtime",
    "check_runtime",
    "runner_arguments",
    "runtime_of",
    "runtimes_for",
]

ONNX_RUNTIME = OnnxRuntime()
"""The runtime that executes every ONNX file, and with which `nas` evaluates ONNX files of its own."""

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (ONNX_RUNTIME, Torch(), OpenVino())}
"""All runtimes, keyed by the value of `devices.runtime` in a study file."""


def runtime_of(device: DeviceSettings) -> Runtime:
    """Return the runtime of a device."""
    return RUNTIMES[device.runtime]


def runtimes_for(operations: Collection[Operation]) -> list[str]:
    """Return the names of the runtimes that execute all of these operations on at least one processor."""
    return [name for name, runtime in RUNTIMES.items() if runtime.processors_for(operations)]


def check_runtime(device: DeviceSettings) -> None:
    """Raise `DeviceError` if the runtime of a device is not installed on this machine.

    Even if the device is a different machine, the runtime is needed here, because accuracy is computed on this machine.
    If the device is this machine, also raise `DeviceError` if the device cannot be used.
    """
    runtime = runtime_of(device)
    if importlib.util.find_spec(runtime.module) is None:
        raise DeviceError(
            f"devices.{device.name}: the runtime {runtime.name!r} is not installed on this machine; run pip install "
            f"{runtime.package}"
        )
    if device.where == "here":
        _check_cores(device)
        runtime.check(device)


def _check_cores(device: DeviceSettings) -> None:
    """Raise `DeviceError` if this process may not use the cores that a device needs.

    Nothing is checked if the operating system does not report the available cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    core_list = ", ".join(map(str, cores))
    missing = [core for core in device.pin_to if core not in cores]
    if missing:
        raise DeviceError(
            f"devices.{device.name}: pin_to must name cores that this process may use ({core_list}), but got "
            f"{missing[0]}; name other cores"
        )
    if device.threads > len(cores):
        raise DeviceError(
            f"devices.{device.name}: threads must be at most the number of cores that this process may use "
            f"({len(cores)}), but got {device.threads}; lower threads, or measure on another machine"
        )
