"""Compression with Olive: conversion, transformer optimisation and dynamic quantisation, without and with a search."""

from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from tracing import OPSET, Job, as_artefact, judged
from transformers import AutoConfig

from nas.device import Device
from nas.errors import NasError
from nas.files import write_json
from nas.tasks import Metric

os.environ.setdefault("OLIVE_DISABLE_TELEMETRY", "1")
_SCRIPT = Path(__file__).with_name("olive_script.py")
_SEARCHED = {
    "precision": "SEARCHABLE_VALUES",
    "per_channel": "SEARCHABLE_VALUES",
    "reduce_range": False,
    "quant_preprocess": True,
}
"""The settings of a search: int8 or uint8 weights, and one scale per channel or per matrix.

The other two settings, which Olive could also search, are fixed at its defaults. Without preprocessing
(`quant_preprocess`), the pass fails on a model that transformer optimisation has changed.
"""


def compress(job: Job) -> dict[str, Path]:
    """Return the files of two workflows: quantisation to int8 with Olive's defaults, and with searched settings.

    The search is left out if `job.search_rows` is zero. It uses the score on the first rows of the search set and, if
    scores are equal, the latency. Both workflows start from the same converted and optimised model, because in Olive
    0.13.0 a search over several passes fails when it meets a model for the second time.
    """
    config = AutoConfig.from_pretrained(job.teacher)
    conversion = {"type": "OnnxConversion", "target_opset": OPSET}
    optimisation = {
        "type": "OrtTransformersOptimization",
        "model_type": "bert",
        "num_heads": config.num_attention_heads,
        "hidden_size": config.hidden_size,
    }
    converted = run(job, "fp32", input_model(job), {"conversion": conversion, "optimisation": optimisation}, {})
    onnx_model = {"type": "ONNXModel", "model_path": str(converted)}
    int8 = {"type": "OnnxDynamicQuantization"}
    files = {"Olive, int8": run(job, "int8", onnx_model, {"quantization": int8}, {})}
    if job.search_rows:
        rows = job.search.select(range(job.search_rows))
        judge = partial(score_of, job.teacher, job.device, job.metric, rows)
        (job.folder / "judge.pickle").write_bytes(pickle.dumps(judge))
        passes = {"quantization": int8 | _SEARCHED}
        files["Olive, int8, searched"] = run(job, "searched", onnx_model, passes, search_settings(job))
    return files


def run(job: Job, name: str, model: dict[str, Any], passes: dict[str, Any], further: dict[str, Any]) -> Path:
    """Run a workflow that applies `passes` to a model; return the path of the (best) ONNX file."""
    from olive.workflows import run as run_workflow

    accelerator = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    settings = {
        "input_model": model,
        "systems": {"here": {"type": "LocalSystem", "accelerators": [accelerator]}},
        "passes": passes,
        "host": "here",
        "target": "here",
        "evaluate_input_model": False,
        "output_dir": str(job.folder / name),
        "cache_dir": str(job.folder / f"{name}-cache"),
        "log_severity_level": 2,
        **further,
    }
    best = run_workflow(settings).get_best_candidate()
    if best is None:
        raise NasError(f"olive: the workflow {name!r} wrote no model; see its messages above for the cause")
    return Path(best.model_path)


def input_model(job: Job) -> dict[str, Any]:
    """Return Olive's description of the teacher."""
    description = job.folder / "teacher.json"
    traceable = job.traceable(job.teacher)
    about = {"folder": str(job.teacher), "names": traceable.input_names, "shape": list(job.shape)}
    write_json(description, about)
    return {
        "type": "PyTorchModel",
        "model_path": str(description),
        "model_script": str(_SCRIPT),
        "script_dir": str(_SCRIPT.parent),
        "model_loader": "load",
        "dummy_inputs_func": "inputs",
        "io_config": {
            **input_shapes(job),
            "output_names": [traceable.output_name],
            "dynamic_axes": {
                name: {str(axis): size for axis, size in axes.items()} for name, axes in traceable.dynamic_axes.items()
            },
        },
    }


def input_shapes(job: Job) -> dict[str, Any]:
    """Return the names, shapes and types of the inputs with which a network is traced and timed."""
    names = list(job.input_names)
    return {
        "input_names": names,
        "input_shapes": [list(job.shape) for _ in names],
        "input_types": ["int64" for _ in names],
    }


def search_settings(job: Job) -> dict[str, Any]:
    """Return the settings of a search that tries every combination of the searched settings."""
    one_thread = {"onnx": {"session_options": {"intra_op_num_threads": job.device.threads}}}
    quality = {
        "name": "quality",
        "type": "accuracy",
        "sub_types": [{"name": "accuracy_score", "priority": 1, "higher_is_better": True}],
    }
    latency = {
        "name": "latency",
        "type": "latency",
        "sub_types": [{"name": "p50", "priority": 2}],
        "user_config": {"inference_settings": one_thread},
        "data_config": {
            "name": "ones",
            "type": "DummyDataContainer",
            "load_dataset_config": {"type": "dummy_dataset", "params": {"max_samples": 1, **input_shapes(job)}},
        },
    }
    judge = {
        "type": "JudgedByStudy",
        "type_args": {"judge": str(job.folder / "judge.pickle")},
        "user_script": str(_SCRIPT),
        "script_dir": str(_SCRIPT.parent),
        "metrics": [quality, latency],
    }
    return {
        "evaluators": {"judge": judge},
        "evaluator": "judge",
        "search_strategy": {"execution_order": "joint", "sampler": "sequential"},
    }


def score_of(teacher: Path, device: Device, metric: Metric, rows: Dataset, path: Path) -> float:
    """Return the score of an ONNX file on some rows."""
    with TemporaryDirectory() as folder:
        return judged(as_artefact(path, teacher, Path(folder) / "searched", device), metric, rows, rows)[0]
