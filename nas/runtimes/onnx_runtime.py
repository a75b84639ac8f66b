"""ONNX Runtime on the CPU or with CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nas.errors import DeviceError
from nas.runtimes.base import OPERATIONS, ByProcessor, DeviceSettings, FileRuntime
from nas.runtimes.runner import Run, onnx_runs, onnx_session

if TYPE_CHECKING:
    import numpy as np

    from nas.runtimes.base import Inputs


class OnnxRuntime(FileRuntime):
    """ONNX Runtime, which executes the ONNX files of all compression methods on the CPU.

    It has no GPU kernels for 8-bit matrix products, and would silently compute them on the CPU.
    """

    name = package = module = "onnxruntime"
    number_formats = {"cpu": ("float32",), "cuda": ("float32",)}
    operations: ClassVar[ByProcessor] = {
        "cpu": OPERATIONS,
        "cuda": frozenset({"int4_blocks", "packed_weights", "early_exits"}),
    }
    runner_suffices = True

    def load(self, path: Path, device: DeviceSettings, inputs: Sequence[Inputs]) -> list[Run]:
        return onnx_runs(str(path), device.threads, device.processor, inputs)

    def session(self, path: Path, device: DeviceSettings) -> Callable[[Inputs], dict[str, np.ndarray]]:
        session = onnx_session(str(path), device.threads, device.processor)
        input_names = [value.name for value in session.get_inputs()]
        output_names = [value.name for value in session.get_outputs()]

        def run(inputs: Inputs) -> dict[str, np.ndarray]:
            fed = {name: value for name, value in inputs.items() if name in input_names}
            return dict(zip(output_names, session.run(output_names, fed), strict=True))

        return run

    def check(self, device: DeviceSettings) -> None:
        import onnxruntime

        if device.processor == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"devices.{device.name}: this ONNX Runtime has no CUDA; install onnxruntime-gpu in place of "
                'onnxruntime, or set processor = "cpu"'
            )

    def details(self, device: DeviceSettings) -> list[str]:
        import onnxruntime

        providers = (name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
        return [f"execution providers: {', '.join(providers)}"]
