"""The tools that the benchmark `alternatives` compares with `nas`.

An `Alternative` compresses the teacher of a run with one tool, and writes ONNX files. To add a tool, add an entry to
`ALTERNATIVES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import olive_tool
import transformers
from sentence_reduction import reduce_layers
from tracing import Job, export

from nas.progress import say


@dataclass(frozen=True)
class Alternative:
    """A tool, and the function that compresses a teacher with it."""

    name: str
    module: str
    """The module that `compress` imports."""
    install: str
    """The command that installs the tool."""
    compress: Callable[[Job], dict[str, Path]]
    """Return the ONNX files that the tool writes, keyed by a name for the table."""
    options: tuple[str, ...] = ()
    """The fields of `Job` that change the tool's files, apart from the teacher and the device."""
    network_types: tuple[str, ...] = ("sequence_classifier", "token_classifier", "encoder")
    """The types of networks that the tool compresses."""

    def obstacle(self, network_type: str) -> str | None:
        """Return the reason why the tool cannot be used here, or None."""
        if network_type not in self.network_types:
            return f"it compresses only networks of the type {' or '.join(self.network_types)}"
        try:
            importlib.import_module(self.module)
        except ModuleNotFoundError as problem:
            package, missing = self.module.partition(".")[0], (problem.name or "").partition(".")[0]
            return f"{'it' if missing == package else missing} is not installed; {self.install}"
        except ImportError as problem:
            reason = str(problem).partition(" (")[0]
            return f"it cannot be imported with transformers {transformers.__version__}: {reason}"
        return None


def with_onnxruntime(job: Job) -> dict[str, Path]:
    """Export the teacher, and quantise it dynamically with the default settings of ONNX Runtime."""
    return {"ONNX Runtime, int8": quantised(exported(job), job.folder / "int8.onnx", {})}


def with_optimums_call(job: Job) -> dict[str, Path]:
    """Export the teacher, and quantise it with ONNX Runtime as Optimum does, including products of two activations."""
    path = quantised(exported(job), job.folder / "int8.onnx", {"MatMulConstBOnly": False})
    return {"Optimum's call, int8": path}


def with_optimum(job: Job) -> dict[str, Path]:
    """Export the teacher, and quantise it dynamically with Optimum's settings for AVX-512."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    config: Any = transformers.AutoConfig.from_pretrained(job.teacher)
    ORTQuantizer(exported(job), config).quantize(settings, job.folder, file_suffix="int8")
    return {"Optimum, int8": job.folder / "exported_int8.onnx"}


def with_layer_reduction(job: Job) -> dict[str, Path]:
    """Keep some layers of an encoder, distil it with sentence-transformers, and write it in fp32 and in int8."""
    student, name = reduce_layers(job)
    path = job.folder / "exported.onnx"
    export(job.traceable(student), path)
    say(f"sentence-transformers: exported {name}")
    return {name: path, f"{name}, int8": quantised(path, job.folder / "int8.onnx", {})}


def exported(job: Job) -> Path:
    """Write the teacher to an ONNX file, and return its path."""
    path = job.folder / "exported.onnx"
    export(job.traceable(job.teacher), path)
    return path


def quantised(source: Path, path: Path, options: dict[str, Any]) -> Path:
    """Quantise an ONNX file dynamically to int8 with ONNX Runtime; return the path of the result."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, path, weight_type=QuantType.QInt8, extra_options=options)
    return path


ALTERNATIVES = {
    alternative.name: alternative
    for alternative in (
        Alternative("onnxruntime", "onnxruntime.quantization", "pip install onnxruntime", with_onnxruntime),
        Alternative("optimum-call", "onnxruntime.quantization", "pip install onnxruntime", with_optimums_call),
        Alternative(
            "optimum", "optimum.onnxruntime.quantization", "pip install optimum-onnx[onnxruntime]", with_optimum
        ),
        Alternative("olive", "olive.workflows", "pip install olive-ai", olive_tool.compress, ("search_rows",)),
        Alternative(
            "layer-reduction",
            "sentence_transformers",
            "pip install sentence-transformers[train]",
            with_layer_reduction,
            ("layers", "steps", "seed", "max_length"),
            ("encoder",),
        ),
    )
}
"""All alternatives, keyed by the name for `--only`."""
