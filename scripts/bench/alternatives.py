"""Compress a run's teacher with other tools, and compare the results with the run's exports.

The run must be finished. The benchmark uses each tool that is installed:
  - `onnxruntime`: export by tracing, and dynamic quantisation to int8 with the defaults of ONNX Runtime;
  - `optimum-call`: the same with the settings that Optimum passes to ONNX Runtime;
  - `optimum`: the same with Optimum's `ORTQuantizer`;
  - `olive`: Olive's passes for conversion, transformer optimisation and dynamic quantisation, with their defaults and
    with Olive's search over the settings of the quantisation;
  - `layer-reduction`: for sentence encoders, the layer reduction of sentence-transformers: keep some layers, and train
    them for some steps to reproduce the teacher's embeddings.

Tools that cannot be used are listed and skipped. The tools are not dependencies of nas. Install them without their
dependencies into another folder, so that they do not replace packages of nas, and add this folder to PYTHONPATH.

The files are measured like exports: accuracy on the test set with the device's batch size, and latency in alternation
with the teacher, the int8 teacher and the exports. The benchmark takes the accuracies of these last three from the
records of the run. The files and their accuracies are stored in <run>/alternatives/. An interrupted benchmark can
therefore resume, and the latencies can be measured again in little time.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
from other_tools import ALTERNATIVES, Alternative
from rich.console import Console
from rich.table import Table
from tracing import Job, as_artefact, judged

from nas.device import Device
from nas.errors import DeviceError, ExportError, StudyError
from nas.export.artefact import VERIFICATION_FILE
from nas.export.verification import Artefact
from nas.files import digest, file_digest, read_json, write_json
from nas.latency.exits import measure_with_exits
from nas.latency.measure import Network, Texts
from nas.pipeline import Run
from nas.pipeline.data import metric_of, splits
from nas.pipeline.profiles import device_of, texts
from nas.pipeline.teachers import teacher_config
from nas.progress import say
from nas.report.numbers import score, significant, times

_RESULT_FILE = "result.json"


def device_to_measure(run: Run) -> Device:
    """Return the run's first device that is this machine and uses ONNX Runtime on the CPU."""
    for device in run.study.devices:
        if (device.where, device.runtime, device.processor) == ("here", "onnxruntime", "cpu"):
            return device_of(run, device.name)
    raise DeviceError(
        "devices: this benchmark measures ONNX files on this machine's CPU, but the study has no such device; add one "
        'with runtime = "onnxruntime"'
    )


def recorded(run: Run, device: Device) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the folder and the verification of each network of the run: the teacher, the int8 teacher, the exports.

    Exports are included even if they are out of date. Raises `StudyError` if the run has no teacher.
    """
    folders = {name: run.baselines(device.name) / name for name in ("teacher", "teacher-int8")}
    folders |= {budget.name: run.export(budget.name) for budget in run.study.budgets}
    found = {
        name: (folder, read_json(folder / VERIFICATION_FILE, ExportError))
        for name, folder in folders.items()
        if (folder / VERIFICATION_FILE).exists()
    }
    if "teacher" not in found:
        raise StudyError(f"{run.folder}: this run has no verified teacher; finish it with nas run {run.study.name}")
    return found


def compressed(alternative: Alternative, job: Job, rows: Any) -> dict[str, dict[str, Any]]:
    """Return the metrics of each file that a tool writes, keyed by name, or read them from an earlier result.

    Each entry has the file's `folder`, its `accuracy` with standard error, its `size_mb`, and the `seconds` that the
    tool took for all of its files together.
    """
    options = [getattr(job, name) for name in alternative.options]
    inputs = digest(
        [alternative.name, file_digest(job.teacher / "model.safetensors"), job.device.model_dump(mode="json"), options]
    )
    result_file = job.folder / _RESULT_FILE
    if result_file.exists() and (stored := read_json(result_file, ExportError))["inputs"] == inputs:
        return stored["files"]
    shutil.rmtree(job.folder, ignore_errors=True)
    (job.folder / "work").mkdir(parents=True)
    say(f"{alternative.name}: compressing the teacher")
    started = time.monotonic()
    written = alternative.compress(replace(job, folder=job.folder / "work"))
    seconds, files = round(time.monotonic() - started, 1), {}
    for number, (name, path) in enumerate(written.items()):
        artefact = as_artefact(path, job.teacher, job.folder / str(number), job.device)
        accuracy, error = judged(artefact, job.metric, rows, job.search)
        files[name] = {
            "folder": str(artefact.folder),
            "accuracy": accuracy,
            "accuracy_standard_error": error,
            "size_mb": artefact.size_mb,
            "seconds": seconds,
        }
    shutil.rmtree(job.folder / "work")
    write_json(result_file, {"inputs": inputs, "files": files})
    return files


def all_compressed(run: Run, device: Device, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the metrics of the files of all tools, and the reasons why tools are left out."""
    data, config = splits(run), teacher_config(run)
    job = Job(
        teacher=run.teacher,
        folder=run.folder / "alternatives",
        device=device,
        input_names=config.input_names,
        train=data.train,
        search=data.search,
        metric=metric_of(run),
        max_length=run.study.task.max_length,
        seed=run.study.seed,
        search_rows=min(arguments.search_rows, len(data.search)),
        layers=tuple(arguments.layers),
        steps=arguments.steps,
    )
    files: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in arguments.only:
        alternative = ALTERNATIVES[name]
        if reason := alternative.obstacle(config.network_type):
            left_out[name] = reason
        else:
            files |= compressed(alternative, replace(job, folder=job.folder / name), data.test)
    return files, left_out


def latencies(
    run: Run, device: Device, networks: dict[str, tuple[Path, dict[str, Any]]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Measure all networks in alternation, and return the latency metrics of each network."""
    exits = {name: record["exits"] for name, (_, record) in networks.items() if record.get("exits")}
    served: dict[str, Network] = {
        name: Artefact(folder, device).network(early=name in exits) for name, (folder, _) in networks.items()
    }
    input_texts = Texts(texts(run).ids, teacher_config(run).vocab_size)
    records = measure_with_exits(device, served, exits, rounds, "Measuring all networks", input_texts)
    teacher = records["teacher"]
    return {
        name: {
            "p50_ms": records[name].p50_ms,
            "best_ms": records[name].best_ms,
            "speed_up": teacher.p50_ms / records[name].p50_ms,
            "best_speed_up": teacher.best_ms / records[name].best_ms,
            "noisy": records[name].noisy,
        }
        for name in networks
    }


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table, and return the metrics of all networks and the tools that are left out."""
    device = device_to_measure(run)
    own = recorded(run, device)
    files, left_out = all_compressed(run, device, arguments)
    others = {name: (Path(metrics["folder"]), metrics) for name, metrics in files.items()}
    baselines = {name: own.pop(name) for name in ("teacher", "teacher-int8") if name in own}
    networks = {**baselines, **others, **own}
    timed = latencies(run, device, networks, arguments.rounds or device.repeats)
    metric = metric_of(run).label
    table = Table(title=f"{run.study.name} on {device.name}")
    for column in ("", f"test {metric}", "p50 ms", "speed-up", "size MB"):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    rows: dict[str, dict[str, Any]] = {}
    for name, (_, record) in networks.items():
        keys = ("accuracy", "accuracy_standard_error", "size_mb", "seconds")
        rows[name] = {key: record[key] for key in keys if key in record} | timed[name]
        rows[name]["tool"] = "other" if name in others else "nas"
        table.add_row(
            name,
            score(record["accuracy"], record["accuracy_standard_error"]),
            significant(timed[name]["p50_ms"]),
            times(timed[name]["speed_up"]),
            f"{record['size_mb']:.1f}",
        )
    Console().print(table)
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}")
    return {"networks": rows, "left_out": left_out, "metric": metric, "device": device.name}


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=ALTERNATIVES, default=list(ALTERNATIVES), help="the tools to use")
    parser.add_argument("--rounds", type=int, help="rounds of the latency measurement (default: the device's)")
    parser.add_argument(
        "--search-rows",
        type=int,
        default=500,
        help="rows of the search set that Olive's search uses; 0 leaves out this search (default: 500)",
    )
    parser.add_argument(
        "--layers", type=int, nargs="*", default=[], help="layers to keep in the layer reduction (default: every third)"
    )
    parser.add_argument(
        "--steps", type=int, default=1000, help="steps of the layer reduction, of 64 texts each (default: 1000)"
    )
    common.main(parser.parse_args(), measure)
