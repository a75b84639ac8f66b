"""OpenVINO on the CPU. It reads ONNX files, and exports contain an additional file in its own format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nas.runtimes.base import ByProcessor, DeviceSettings, FileRuntime
from nas.runtimes.runner import Run

if TYPE_CHECKING:
    import numpy as np

    from nas.runtimes.base import Inputs

OPENVINO_FILE = "openvino_model.xml"
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino(FileRuntime):
    """OpenVINO on the CPU.

    The method `check` is not overridden, because OpenVINO supports any CPU. If the CPU does not support bfloat16,
    OpenVINO emulates it, which increases the measured latency.
    """

    name = package = module = "openvino"
    number_formats = {"cpu": tuple(_HINTS)}
    operations: ClassVar[ByProcessor] = {"cpu": frozenset({"static_int8"})}

    def load(self, path: Path, device: DeviceSettings, inputs: Sequence[Inputs]) -> list[Run]:
        request = _inference_request(path, device)
        input_names = _input_names(request)

        def run_on(values: dict[str, np.ndarray]) -> Run:
            return lambda: list(request.infer(values).values())

        return [run_on({name: value for name, value in arrays.items() if name in input_names}) for arrays in inputs]

    def session(self, path: Path, device: DeviceSettings) -> Callable[[Inputs], dict[str, np.ndarray]]:
        request = _inference_request(path, device)
        input_names = _input_names(request)

        def run(inputs: Inputs) -> dict[str, np.ndarray]:
            import numpy as np

            fed = {name: value for name, value in inputs.items() if name in input_names}
            outputs = request.infer(fed).items()
            return {name: np.array(value) for port, value in outputs for name in port.get_names()}

        return run

    def save_export(self, onnx_file: Path, folder: Path) -> None:
        import openvino

        # Weights are not compressed to float16, so that accuracy and latency equal those of the ONNX file.
        openvino.save_model(openvino.Core().read_model(onnx_file), folder / OPENVINO_FILE, compress_to_fp16=False)

    def exported_file(self, onnx_file: Path, folder: Path) -> Path:
        own_file = folder / OPENVINO_FILE
        return own_file if own_file.exists() else onnx_file

    def files_of(self, path: Path) -> list[Path]:
        return [path, path.with_suffix(".bin")] if path.suffix == Path(OPENVINO_FILE).suffix else [path]


def _inference_request(path: Path, device: DeviceSettings) -> Any:
    """Load an ONNX or OpenVINO file, and return an inference request, which is tuned for latency."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": device.threads,
        "INFERENCE_PRECISION_HINT": _HINTS[device.number_format],
        "PERFORMANCE_HINT": "LATENCY",
    }
    return core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()


def _input_names(request: Any) -> set[str]:
    return {port.get_any_name() for port in request.get_compiled_model().inputs}
