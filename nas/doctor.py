"""The checks of `nas doctor`: what this machine supports, and what is missing for a study.

`examine` returns a list of `Finding`s, which `nas.report.terminal` prints. It imports heavy packages only after it has
checked that all packages are installed.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nas.errors import NasError

if TYPE_CHECKING:
    from nas.device import Device
    from nas.study import Study

PACKAGE = "compact-bert-nas"
_GB = 1e9
_TRAINED_BYTES = 20
"""Bytes per parameter in training: weight, gradient, two optimiser moments and the teacher's weight, 4 bytes each."""
# Hardware support for matrix products: the number format, its flags in /proc/cpuinfo, and a description.
_INSTRUCTIONS = (
    ("int8", ("amx_int8",), "AMX multiplies tiles of int8"),
    ("int8", ("avx512_vnni", "avx_vnni"), "VNNI multiplies int8"),
    ("bf16", ("amx_bf16",), "AMX multiplies tiles of bf16"),
    ("bf16", ("avx512_bf16", "bf16"), "multiplied in hardware"),
    ("fp32", ("avx512f",), "AVX-512: 16 numbers at once"),
    ("fp32", ("avx2",), "AVX2: 8 numbers at once"),
)
_WITHOUT_INSTRUCTIONS = {
    "int8": "no int8 instruction: int8 makes networks smaller, but saves less time than with such an instruction",
    "bf16": "no instruction for bf16 products: training runs in fp32",
    "fp32": "no AVX2 or AVX-512 was detected on this processor",
}
_GOVERNOR_ADVICE = {
    "performance": "performance",
    "unknown": "cannot be read: make sure that the clock frequency is constant while latency is measured",
}
State = Literal["ok", "missing", "note"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    about: str
    """The subject: `packages`, `runtimes`, `machine` or `study`."""
    name: str
    state: State
    detail: str


def examine(load: Callable[[], Study] | None = None) -> list[Finding]:
    """Return findings about the packages, the runtimes and the machine.

    If `load` is given, also return findings about the study that it returns. If a package is missing, only the packages
    are checked. Errors that `load` raises are not caught.
    """
    findings = list(_packages())
    if any(finding.state == "missing" for finding in findings):
        rest = "is checked once all packages are installed"
        return [*findings, Finding("machine", "the rest", "note", rest)]
    study = load() if load else None  # first, because the other checks take longer
    findings += [*_runtimes(), *_machine(), *_ray()]
    return [*findings, *_study_findings(study)] if study else findings


def _packages() -> Iterator[Finding]:
    try:
        package, needed = metadata(PACKAGE), requires(PACKAGE) or []
    except PackageNotFoundError:
        yield Finding("packages", "nas", "note", "runs from a source tree, so package versions are not checked")
        return
    python = platform.python_version()
    yield _version("python", python, SpecifierSet(package["Requires-Python"]))
    for requirement in map(Requirement, needed):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                yield _version(requirement.name, version(requirement.name), requirement.specifier)
            except PackageNotFoundError:
                if find_spec(requirement.name):  # such as onnxruntime, which onnxruntime-gpu contains too
                    yield Finding("packages", requirement.name, "note", "is provided by a package of a different name")
                else:
                    yield Finding("packages", requirement.name, "missing", f"pip install '{requirement}'")


def _version(name: str, installed: str, required: SpecifierSet) -> Finding:
    if required.contains(installed, prereleases=True):
        return Finding("packages", name, "ok", installed)
    return Finding(
        "packages", name, "missing", f"{installed} is installed, but {required} is needed; install a matching version"
    )


def _runtimes() -> Iterator[Finding]:
    """Check each runtime on the CPU. Check the runtimes that support GPUs also on a GPU."""
    from nas.device import Device
    from nas.runtimes import RUNTIMES

    kinds: dict[str, dict[str, Any]] = {name: {"runtime": name} for name in RUNTIMES}
    for name, runtime in RUNTIMES.items():
        if runtime.compiles:
            kinds[f"{name} compiled"] = {"runtime": name, "compiled": True}
    for name, runtime in RUNTIMES.items():
        if "cuda" in runtime.number_formats:
            kinds[f"{name} on a GPU"] = {"runtime": name, "processor": "cuda"}
    for name, settings in kinds.items():
        problem = _runtime_problem(device := Device(name="here", **settings))
        yield Finding("runtimes", name, "note" if problem else "ok", problem or _runtime_details(device))


def _problem(check: Callable[[], object], start: str = "") -> str:
    """Return the message of the `NasError` that a check raises, or an empty string if the check passes.

    If the message begins with `start`, this prefix is removed.
    """
    try:
        check()
    except NasError as problem:
        return str(problem).removeprefix(start)
    return ""


def _runtime_problem(device: Device) -> str:
    """Return the reason why latency cannot be measured on a device, or an empty string if it can be measured."""
    from nas.runtimes import check_runtime

    return _problem(partial(check_runtime, device), f"devices.{device.name}: ")


def _runtime_details(device: Device) -> str:
    from nas.runtimes import runtime_of

    runtime = runtime_of(device)
    return "; ".join([runtime.version, *runtime.details(device)])


def _machine() -> Iterator[Finding]:
    import psutil

    from nas.runtimes.runner import cpuinfo, environment

    machine = environment({"runtime": "numpy", "processor": "cpu"})  # any runtime will do here
    yield Finding("machine", "processor", "ok", f"{machine['processor']}, {machine['system']}")
    flags = set((cpuinfo("flags") or cpuinfo("Features")).split())
    for number_format, missing_text in _WITHOUT_INSTRUCTIONS.items():
        instructions = [
            words for kind, names, words in _INSTRUCTIONS if kind == number_format and flags.intersection(names)
        ]
        yield Finding(
            "machine", number_format, "ok" if instructions else "note", "; ".join(instructions) or missing_text
        )
    yield _cores()
    memory = psutil.virtual_memory()
    yield Finding("machine", "memory", "ok", f"{memory.available / _GB:.1f} of {memory.total / _GB:.1f} GB free")
    yield _disk()
    governor = machine["governor"]
    advice = _GOVERNOR_ADVICE.get(governor, f"{governor}: set it to performance while latency is measured")
    yield Finding("machine", "governor", "ok" if governor == "performance" else "note", advice)


def _disk() -> Finding:
    """Check the free space in the working folder and in the folder for temporary files.

    By default, runs are stored in the working folder. During a measurement, networks are stored in the temporary
    folder.
    """
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:
        detail = "no folder for temporary files is writable: set TMPDIR to a writable folder"
        return Finding("machine", "disk", "note", detail)
    free_here, free_temporary = (shutil.disk_usage(folder).free / _GB for folder in (Path.cwd(), temporary))
    writable = os.access(Path.cwd(), os.W_OK)
    detail = f"{free_here:.1f} GB free in this folder, {free_temporary:.1f} GB in {temporary}"
    rest = "" if writable else "; this folder is not writable: give a folder for the results with --runs"
    return Finding("machine", "disk", "ok" if writable else "note", detail + rest)


def _cores() -> Finding:
    import psutil

    threads, cores = psutil.cpu_count() or 1, psutil.cpu_count(logical=False)
    if cores is None or cores == threads:
        return Finding("machine", "cores", "ok", f"{threads}")
    detail = f"{cores} with {threads} threads: a program on the other thread of a core disturbs measurements"
    return Finding("machine", "cores", "note", detail)


def _ray() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        yield Finding("machine", "ray", "ok", "RAY_ADDRESS is not set: a local cluster is started if one is needed")
        return
    problem = _cluster_problem("RAY_ADDRESS")
    yield Finding("machine", "ray", "missing" if problem else "ok", problem or f"a cluster answers at {address}")


def _cluster_problem(setting: str) -> str:
    """Connect to the Ray cluster. Return the reason if the connection fails, or an empty string if it succeeds."""
    from nas.cluster import connect

    return _problem(partial(connect, os.environ.get("RAY_ADDRESS", "auto"), setting), f"{setting}: ")


def _study_findings(study: Study) -> Iterator[Finding]:
    """Check whether this machine meets the requirements of a study: devices, storage, models, data and memory."""
    for device in study.devices:
        problem = _runtime_problem(device)
        state: State = "missing" if problem else "ok"
        yield Finding("study", f"device {device.name}", state, problem or device.runtime_in_words)
        if device.where == "ray" and (problem := _cluster_problem(device.name)):
            yield Finding("study", f"cluster for {device.name}", "missing", problem)
    yield from _search_findings(study)
    separate = [_separate_teacher(study)] if study.student else []
    data_findings = [*separate, _compressed_model(study), *_data(study)]
    yield from data_findings
    if all(finding.state == "ok" for finding in data_findings):
        yield from _rows(study)
    yield _memory(study)


def _data(study: Study) -> Iterator[Finding]:
    """Check that the files or hub splits of the data exist."""
    from nas.data.files import check_file
    from nas.pipeline.sources import given_files

    task = study.task
    files = given_files(study) | {"unlabelled": tuple(map(study.resolve, task.unlabelled_files))}
    for key, path in ((key, path) for key, paths in files.items() for path in paths):
        yield _run_check(key, str(path), partial(check_file, path))
    if task.hub:
        yield _run_check("data", f"{task.hub} is on the hub", partial(_check_hub_data, study))


def _rows(study: Study) -> Iterator[Finding]:
    """Check that the rows of the study's data can be read, split and tokenised."""
    from nas.pipeline.rows import look_at_rows
    from nas.pipeline.run import Run

    try:
        summary = look_at_rows(Run(study, study.path.parent))
    except NasError as problem:
        yield Finding("study", "rows", "missing", str(problem))
        return
    if summary:
        sizes = ", ".join(f"{lengths.rows:,} {name}" for name, lengths in summary.sets.items())
        yield Finding("study", "rows", "ok", f"{sizes}; nas check describes them")


def _run_check(name: str, detail: str, check: Callable[[], None]) -> Finding:
    """Run a check. Return a finding with `detail` if the check passes, or with its error message if it fails."""
    problem = _problem(check)
    return Finding("study", name, "missing" if problem else "ok", problem or detail)


def _search_findings(study: Study) -> Iterator[Finding]:
    """Check the compression methods, the database of trials, and the number of GPUs for the workers."""
    import torch

    from nas.pipeline.plan import check_choices
    from nas.pipeline.searches import check_storage

    yield _run_check("compression", "all compression methods can be exported", partial(check_choices, study))
    if study.search.storage:
        yield _run_check("storage", "the database answers", partial(check_storage, study))
    gpus_per_worker, gpu_count = study.search.worker_gpus, torch.cuda.device_count()
    if gpus_per_worker > gpu_count and "RAY_ADDRESS" not in os.environ:
        needed = f"{gpus_per_worker:g} GPU{'' if gpus_per_worker == 1.0 else 's'}"
        detail = f"each worker needs {needed}, but this machine has {gpu_count}; "
        detail += "lower search.worker_gpus, or set RAY_ADDRESS to a cluster with more GPUs"
        yield Finding("study", "GPUs", "missing", detail)


def _compressed_model(study: Study) -> Finding:
    """Check the model to compress: the student or, if there is none, the teacher."""
    name = study.compressed_table
    if study.compressed.model == "embedded":
        return Finding("study", name, "ok", "built by nas")
    from nas.pipeline.sources import given_teacher
    from nas.pipeline.teacher_checks import check_teacher

    return _model(name, study.compressed.revision, partial(given_teacher, study), partial(check_teacher, study))


def _separate_teacher(study: Study) -> Finding:
    """Check the teacher of a study with a `[student]`, in which the student is the model to compress."""
    if not study.teacher.is_loaded:
        return Finding("study", "teacher", "ok", "its outputs are columns of the data")
    from nas.model.any_classifier import AnyClassifier
    from nas.pipeline.sources import given_model

    find_source = partial(given_model, study, study.teacher)
    return _model("teacher", study.teacher.revision, find_source, AnyClassifier.of)


def _model(name: str, revision: str | None, find_source: Callable[[], str], check: Callable[..., object]) -> Finding:
    """Check a model without downloading its weights. `find_source` returns the folder or the hub id of the model."""
    from nas.hub import find, model_folder

    try:
        source = find_source()
        if Path(source).is_dir():
            check(source)
        else:
            hub_id, _ = find("model", source, revision)
            check(str(model_folder(hub_id, weights=False)), weights=False)
            source = f"{hub_id} is on the hub"
    except NasError as problem:
        return Finding("study", name, "missing", str(problem).removeprefix(f"{name}.model: "))
    return Finding("study", name, "ok", source)


def _check_hub_data(study: Study) -> None:
    from nas.hub import find
    from nas.pipeline.snapshots import check_hub_data

    assert study.task.hub
    check_hub_data(study.task, find("dataset", study.task.hub, study.task.revision)[0])


def _memory(study: Study) -> Finding:
    """Check that the free memory suffices for the weights, gradients and optimiser moments during training."""
    import psutil

    needed_gb = _TRAINED_BYTES * study.space.teacher.layer_weights * study.supernet.workers / _GB
    free_gb = psutil.virtual_memory().available / _GB
    needed = f"training needs at least {needed_gb:.1f} GB for weights, gradients and optimiser moments"
    if needed_gb < free_gb:
        return Finding("study", "memory", "ok", f"{needed}, and {free_gb:.1f} GB are free")
    detail = f"{needed}, but only {free_gb:.1f} GB are free; close other programs, or use a machine with more memory"
    return Finding("study", "memory", "missing", detail)
