"""The interface of runtimes, the libraries that execute networks.

Each runtime is a subclass of `FileRuntime` or `ModuleRuntime` in its own file, and has an entry in the registry. Its
class attributes state what the runtime supports, so that a device, a study and a search space can be checked without
importing the runtime's library. Libraries are imported only inside functions.

A runtime does not depend on how networks are defined: `nas.latency.networks` passes it an ONNX file or a torch module.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from nas.runtimes.runner import Clock, Run, wall_clock

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

    Inputs = Mapping[str, np.ndarray]

Operation = Literal["dynamic_int8", "static_int8", "int4_blocks", "packed_weights", "early_exits"]
"""A capability that a network may need in addition to the operators of an uncompressed BERT:

- `dynamic_int8`: 8-bit matrix products of inputs that are quantised with the range of each batch (`MatMulInteger`)
- `static_int8`: 8-bit matrix products that are written with `QuantizeLinear` and `DequantizeLinear`
- `int4_blocks`: matrix products and look-ups with 4-bit weights that have one scale per block of weights
- `packed_weights`: weights that take fewer bytes in the file, and are converted to float numbers by standard operators
- `early_exits`: layers that are executed only if a condition is true (`If`)
"""
OPERATIONS: frozenset[Operation] = frozenset(get_args(Operation))
ByProcessor = Mapping[str, frozenset[Operation]]
"""Operations, keyed by processor (`cpu` or `cuda`)."""


class DeviceSettings(Protocol):
    """The settings of a `nas.device.Device` that this package reads."""

    @property
    def name(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def processor(self) -> str: ...
    @property
    def number_format(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def pin_to(self) -> Collection[int]: ...
    @property
    def compiled(self) -> bool: ...


class Runtime(ABC):
    """A library that executes networks."""

    name: ClassVar[str]
    """The value of `devices.runtime` in a study file."""

    package: ClassVar[str]
    """The package that users install with pip."""

    module: ClassVar[str]
    """The module that the package provides. Its `__version__` is part of the conditions of a measurement."""

    number_formats: ClassVar[Mapping[str, tuple[str, ...]]]
    """The number formats that the runtime supports, keyed by processor (`cpu` or `cuda`)."""

    operations: ClassVar[ByProcessor]
    """The operations that the runtime executes, keyed by processor. An operation that the library would execute on a
    different processor, or without the savings for which it is meant, is not listed.
    """

    compiles: ClassVar[bool] = False
    """Whether a device with this runtime can have the setting `compiled`."""

    runner_suffices: ClassVar[bool] = False
    """Whether `runner.py` itself can load networks of this runtime. If so, the archive of `nas device bundle` can
    measure them on a device outside the cluster.
    """

    def executes(self, operations: Collection[Operation], processor: str) -> bool:
        """Whether the runtime executes all of these operations on a processor."""
        return processor in self.number_formats and self.operations[processor].issuperset(operations)

    def processors_for(self, operations: Collection[Operation]) -> list[str]:
        """Return the processors on which the runtime executes all of these operations."""
        return [processor for processor in self.number_formats if self.executes(operations, processor)]

    @property
    def version(self) -> str:
        """The version of the installed library."""
        version: str = importlib.import_module(self.module).__version__
        return version

    @abstractmethod
    def needs_torch(self, device: DeviceSettings) -> bool:
        """Whether the process that measures networks on the device needs PyTorch and the definition of the networks.

        If not, networks are measured by `runner.py`, in a process that loads little more than the runtime's library.
        """

    def check(self, device: DeviceSettings) -> None:
        """Raise `DeviceError` if this machine lacks a GPU, a compiler or a provider that the device needs.

        The caller must make sure that the runtime's package is installed.
        """
        return

    def details(self, device: DeviceSettings) -> list[str]:
        """Return the details that `nas doctor` shows after the version of the runtime, such as the names of GPUs."""
        return []

    def files_of(self, path: Path) -> list[Path]:
        """Return all files that are read when the network in the file `path` is loaded, with `path` first."""
        return [path]

    def clock(self, device: DeviceSettings) -> Clock:
        """Return the function that times a run on the device."""
        return wall_clock


class FileRuntime(Runtime):
    """A runtime that reads networks from files: ONNX files, or files in its own format."""

    @abstractmethod
    def load(self, path: Path, device: DeviceSettings, inputs: Sequence[Inputs]) -> list[Run]:
        """For each set of inputs, return a function that runs the network in a file on these inputs.

        Inputs that the network does not have are ignored.
        """

    @abstractmethod
    def session(self, path: Path, device: DeviceSettings) -> Callable[[Inputs], dict[str, np.ndarray]]:
        """Return a function that runs the network in a file. The function maps inputs to outputs, both keyed by name.

        Inputs that the network lacks are ignored.
        """

    def needs_torch(self, device: DeviceSettings) -> bool:
        return device.processor != "cpu"  # the CUDA libraries come with PyTorch

    def save(self, network: onnx.ModelProto, path: Path) -> None:
        """Write a network to the file `path`, which `load` reads. The default is an ONNX file."""
        from nas.graph import save

        save(network, path)

    def save_export(self, onnx_file: Path, folder: Path) -> None:
        """Write the network in `onnx_file` to an export's folder in the runtime's own format, if it has one."""
        return

    def exported_file(self, onnx_file: Path, folder: Path) -> Path:
        """Return the file in an export's folder that the runtime loads. The default is the ONNX file."""
        return onnx_file


class ModuleRuntime(Runtime):
    """A runtime that executes torch modules. It loads networks from the weights of an export."""

    @abstractmethod
    def placed(self, network: torch.nn.Module, device: DeviceSettings) -> Callable[..., Any]:
        """Return a network in evaluation mode, on the device's processor and in the device's number format.

        The network is compiled if the device has the setting `compiled`. The given network may be changed. The result
        is called with the network's inputs as keyword arguments.
        """

    @abstractmethod
    def load(self, build: Callable[[], torch.nn.Module], device: DeviceSettings, inputs: Sequence[Inputs]) -> list[Run]:
        """Return one function per set of inputs. Each function runs the network returned by `build()` on its set."""

    def needs_torch(self, device: DeviceSettings) -> bool:
        return True


def runner_arguments(runtime: Runtime) -> list[str]:
    """Return the arguments with which `runner.py` loads networks of a runtime.

    The arguments are the runtime's class and the folders from which its modules are imported. If `runner.py` can load
    the networks by itself, the list is empty.
    """
    if runtime.runner_suffices:
        return []
    kind = type(runtime)
    folders = (_folder_of_modules(module) for module in (__name__, kind.__module__))
    return [f"{kind.__module__}:{kind.__qualname__}", *dict.fromkeys(folders)]


def _folder_of_modules(module: str) -> str:
    """Return the folder that must be on Python's path so that `module` can be imported."""
    return str(Path(str(sys.modules[module].__file__)).resolve().parents[module.count(".")])
