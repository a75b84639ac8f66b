"""PyTorch, eager or compiled, on the CPU or a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from nas.errors import DeviceError
from nas.runtimes.base import ByProcessor, DeviceSettings, ModuleRuntime
from nas.runtimes.runner import Clock, Run, wall_clock

if TYPE_CHECKING:
    import torch

    from nas.runtimes.base import Inputs


class Torch(ModuleRuntime):
    """PyTorch. It only simulates the arithmetic of compressed formats, which saves no time."""

    name = package = module = "torch"
    number_formats = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
    operations: ClassVar[ByProcessor] = {"cpu": frozenset(), "cuda": frozenset()}
    compiles = True

    def placed(self, network: torch.nn.Module, device: DeviceSettings) -> Callable[..., Any]:
        import torch

        placed = network.eval().to(device.processor, getattr(torch, device.number_format))
        if not device.compiled:
            return placed
        mode = "reduce-overhead" if device.processor == "cuda" else "default"
        # Shapes are static: a network is compiled once for each length. The high limits keep PyTorch from falling back
        # to eager execution.
        limits = torch._dynamo.config
        limits.recompile_limit = limits.accumulated_recompile_limit = 2**20
        limits.fail_on_recompile_limit_hit = True
        compiled: Callable[..., Any] = torch.compile(placed, mode=mode, dynamic=False)
        return compiled

    def load(self, build: Callable[[], torch.nn.Module], device: DeviceSettings, inputs: Sequence[Inputs]) -> list[Run]:
        import torch

        torch.set_num_threads(device.threads)
        placed = self.placed(build(), device)
        tensors = [
            {name: _input_tensor(torch.from_numpy(value), device) for name, value in arrays.items()}
            for arrays in inputs
        ]

        @torch.inference_mode()
        def run(inputs_of_run: dict[str, torch.Tensor]) -> Any:
            return placed(**inputs_of_run)

        return [partial(run, inputs_of_run) for inputs_of_run in tensors]

    def check(self, device: DeviceSettings) -> None:
        import torch

        if device.processor == "cuda" and not torch.cuda.is_available():
            raise DeviceError(f'devices.{device.name}: PyTorch finds no GPU on this machine; set processor = "cpu"')
        if device.compiled and device.processor == "cpu" and not shutil.which("g++"):
            raise DeviceError(
                f"devices.{device.name}: PyTorch needs g++ to compile for the CPU; install g++, or remove "
                "the setting compiled"
            )

    def details(self, device: DeviceSettings) -> list[str]:
        import torch

        is_gpu = device.processor == "cuda"
        return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if is_gpu else []

    def clock(self, device: DeviceSettings) -> Clock:
        return _cuda_clock if device.processor == "cuda" else wall_clock


def _input_tensor(value: torch.Tensor, device: DeviceSettings) -> torch.Tensor:
    import torch

    return value.to(device.processor, getattr(torch, device.number_format) if value.is_floating_point() else None)


def _cuda_clock(run: Run) -> float:
    """Return the time of one run in milliseconds, measured between two events on the GPU."""
    import torch

    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    run()
    ended.record()
    ended.synchronize()
    return float(started.elapsed_time(ended))
