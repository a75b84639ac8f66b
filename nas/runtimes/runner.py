"""The program that measures networks. It needs only Python, numpy and the runtime.

For measurements of a study, `nas.latency.workers` starts the program and exchanges lines of JSON with it. The program
itself can load networks in ONNX Runtime. For other runtimes, it imports a class of `nas.runtimes`. In an archive of
`nas device bundle`, this file is named `run.py`. There, it measures the networks that `job.json` lists, and writes
`result.json`. If `run.py` is interrupted, it resumes when it is started again.

In each round, all networks of a group are timed in a new random order, so that a disturbance of the machine affects all
networks alike. The first network is the reference network. It gets additional turns in each round, and is also timed
before the first round and after the last. The group is measured again if the latency of the reference network has
changed too much, or if the samples vary too much. If every attempt is disturbed, the best attempt is kept and marked as
noisy.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import platform
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Run = Callable[[], Any]
Clock = Callable[[Run], float]
"""A function that runs a network once and returns the time of the run in milliseconds."""
Load = Callable[[Mapping[str, Any], Mapping[str, Any], Sequence[Mapping[str, np.ndarray]]], "list[Run]"]
"""A function that loads a network and returns, for each set of inputs, a function that runs the network on it.

Its arguments are the network's entry in a group, the device and the sets of inputs."""

ANSWER, ROUND, PROBLEM = "answer ", "round ", "problem "
"""The prefixes of the lines that this program prints for the process that started it.

Libraries may print lines without these prefixes.
"""
DISTURBED = "disturbed"
"""The line that this program prints if it repeats the measurement of a group, because the machine was disturbed."""
_SETTLING_SECONDS, _SETTLING_RUNS, _TURN_SECONDS = 0.01, 10, 0.03
"""At the start of each turn, a network runs for `_SETTLING_SECONDS`, but at most `_SETTLING_RUNS` times, unrecorded.

Without these runs, the previous network's data in the caches would slow down the recorded runs. The recorded runs of a
turn take about `_TURN_SECONDS`. There are many short turns, because a disturbance of the machine lasts longer than one
run.
"""
_MAX_SAMPLES, _MIN_SAMPLES = 12, 2
_WARM_UP_SECONDS, _WARM_UP_WINDOW, _STABILITY_TOLERANCE = 1.0, 3, 0.05
_REFERENCE_SAMPLES, _TURNS_BETWEEN = 12, 10
"""How many times the reference network is timed before the first round, and again after the last round.

Within a round, the reference network gets an additional turn after every `_TURNS_BETWEEN` turns.
"""
_ATTEMPTS = 3
_MAX_DRIFT, _MAX_SPREAD = 0.1, 0.15
_MB = 1e6


class DeviceProblem(OSError):
    """This machine does not support a setting of the device. The message of the exception states a remedy."""


def wall_clock(run: Run) -> float:
    """Return the time of one run in milliseconds, by the monotonic clock."""
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1e3


def prepare_process(device: Mapping[str, Any]) -> None:
    """Pin this process to the cores that the device's `pin_to` lists, if any, and disable the garbage collector.

    Raises `DeviceProblem` if the process cannot be pinned to these cores.
    """
    if device["pin_to"]:
        if not hasattr(os, "sched_setaffinity"):
            raise DeviceProblem("pin_to: this operating system cannot pin a process to cores; remove pin_to")
        cores = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        try:
            os.sched_setaffinity(0, device["pin_to"])
        except OSError:
            raise DeviceProblem(
                f"pin_to must name cores that this process may use ({cores}), but got "
                f"{', '.join(map(str, device['pin_to']))}; name other cores"
            ) from None
    gc.collect()
    gc.disable()


def measure_group(
    group: Mapping[str, Any],
    device: Mapping[str, Any],
    load: Load,
    clock: Clock = wall_clock,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure the networks of a group, and repeat the measurement if the machine was disturbed.

    Return a dictionary that describes the best attempt, with these entries:

    - `samples_ms`: for each network name, one list of samples per set of inputs
    - `spread`: for each network name, the interquartile range of the samples divided by their median
    - `drift`: the relative change of the reference network's latency
    - `attempts`: the number of attempts
    - `noisy`: whether even the best attempt was disturbed
    """
    networks = {item["name"]: load(item, device, _inputs(item)) for item in group["networks"]}
    warm_up_ms = {name: sum(_warm_up(run, device["warm_up"], clock) for run in runs) for name, runs in networks.items()}
    best: dict[str, Any] = {}
    for attempt in range(1, _ATTEMPTS + 1):
        result = _measure_once(networks, warm_up_ms, group["rounds"], clock, say)
        if not best or (result["noisy"], _disturbance(result)) < (best["noisy"], _disturbance(best)):
            best = result
        best["attempts"] = attempt
        if not best["noisy"]:
            break
        say(DISTURBED)
    return best


def _measure_once(
    networks: Mapping[str, list[Run]],
    warm_up_ms: Mapping[str, float],
    rounds: int,
    clock: Clock,
    say: Callable[[str], None],
) -> dict[str, Any]:
    rng, names, reference_name = random.Random(0), sorted(networks), next(iter(networks))
    samples: dict[str, list[list[float]]] = {name: [[] for _ in networks[name]] for name in names}
    reference = networks[reference_name][0]

    def reference_ms() -> float:
        return float(np.median([clock(reference) for _ in range(_REFERENCE_SAMPLES)]))

    reference_before = reference_ms()
    for done in range(rounds):
        rng.shuffle(names)
        for name in _with_reference_turns(reference_name, names):
            count = int(min(max(_TURN_SECONDS * 1e3 / warm_up_ms[name], _MIN_SAMPLES), _MAX_SAMPLES))
            for times, run in zip(samples[name], networks[name]):  # noqa: B905 (older Pythons on targets)
                _settle(run, clock, _SETTLING_SECONDS / len(networks[name]))
                times += [clock(run) for _ in range(count)]
        say(f"{ROUND}{done + 1}")
    drift = abs(reference_ms() / reference_before - 1.0)
    spread = {name: float(np.median([_spread(times) for times in samples[name]])) for name in names}
    noisy = drift > _MAX_DRIFT or float(np.median(list(spread.values()))) > _MAX_SPREAD
    return {"samples_ms": samples, "spread": spread, "drift": drift, "noisy": noisy}


def _with_reference_turns(reference: str, names: Sequence[str]) -> Iterator[str]:
    for index, name in enumerate(names):
        if index and index % _TURNS_BETWEEN == 0:
            yield reference
        yield name


def _settle(run: Run, clock: Clock, seconds: float) -> None:
    """Run a network for some seconds without recording the times, at least once and at most `_SETTLING_RUNS` times.

    The runs use `clock` nevertheless, because it waits until a GPU has finished a run.
    """
    deadline = time.perf_counter() + seconds
    for _ in range(_SETTLING_RUNS):
        clock(run)
        if time.perf_counter() > deadline:
            break


def _spread(samples: list[float]) -> float:
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return float((high - low) / middle)


def _disturbance(result: Mapping[str, Any]) -> float:
    return float(result["drift"] / _MAX_DRIFT + np.median(list(result["spread"].values())) / _MAX_SPREAD)


def _warm_up(run: Run, min_runs: int, clock: Clock) -> float:
    """Run a network until its times are stable, and return the shortest time in milliseconds.

    The network runs at least `min_runs` times. If the times do not become stable, the runs end after
    `_WARM_UP_SECONDS`.
    """
    times: list[float] = []
    while True:
        times.append(clock(run))
        last, earlier = times[-_WARM_UP_WINDOW:], times[-2 * _WARM_UP_WINDOW : -_WARM_UP_WINDOW]
        stable = len(earlier) == _WARM_UP_WINDOW and min(last) >= (1.0 - _STABILITY_TOLERANCE) * min(earlier)
        if len(times) >= min_runs and (stable or sum(times) > _WARM_UP_SECONDS * 1e3):
            return min(times)


def answer(
    device: Mapping[str, Any],
    requests: Iterable[Mapping[str, Any]],
    load: Load,
    clock: Clock = wall_clock,
    module: str | None = None,
) -> None:
    """Print the environment as one line of JSON, and then the answer to each request as one line of JSON.

    `module` is an argument of `environment`. A request is a group to measure, or `{"memory": item}` for the peak memory
    of one network. If a `DeviceProblem` occurs, the function prints its message as a line of its own and returns. If
    another `OSError` occurs, the process prints the error message to standard error and ends.
    """

    def reply(value: Any) -> None:
        print(f"{ANSWER}{json.dumps(value)}", flush=True)

    try:
        prepare_process(device)
        reply(environment(device, module))
        for request in requests:
            if "memory" in request:
                reply(peak_memory_mb(request["memory"], device, load))
            else:
                reply(measure_group(request, device, load, clock, lambda line: print(line, flush=True)))
    except DeviceProblem as problem:
        print(f"{PROBLEM}{problem}", flush=True)
    except OSError as problem:
        sys.exit(str(problem))


def peak_memory_mb(item: Mapping[str, Any], device: Mapping[str, Any], load: Load) -> float | None:
    """Run a network in this process, and return the peak memory of the process so far, in 10^6 bytes.

    Return None if the operating system does not report the peak memory.
    """
    for run in load(item, device, _inputs(item)):
        for _ in range(device["warm_up"]):
            run()
    for line in _read("/proc/self/status").splitlines():  # VmHWM: the peak since the process was started
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * 1024 / _MB
    if sys.platform != "darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MB


def peak_memory_apart(item: Mapping[str, Any], device: Mapping[str, Any], runtime: Sequence[str] = ()) -> float | None:
    """Serve one network in a new process that imports only the runtime, and return its peak memory in 10^6 bytes.

    `item["file"]` is the full path of the network's file. `runtime` has the same form as in `main`. Raises `OSError` if
    the process fails.
    """
    flags = ["-P"] if sys.version_info >= (3, 11) else []  # keeps files in this folder from shadowing modules
    command = [sys.executable, *flags, str(Path(__file__).resolve()), "--memory", *runtime]
    job = json.dumps({"item": item, "device": device})
    process = subprocess.run(command, input=job, capture_output=True, text=True, check=False)
    if process.returncode:
        error_lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise OSError(f"measuring the peak memory of a network failed: {error_lines[-1]}")
    peak: float | None = json.loads(process.stdout)
    return peak


def _inputs(item: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{name: _input_array(spec, rng) for name, spec in inputs.items()} for inputs in item["inputs"]]


def _input_array(spec: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    if spec["kind"] == "float":
        return rng.standard_normal(spec["shape"], dtype=np.float32)
    if spec["kind"] == "ones":
        return np.ones(spec["shape"], dtype=np.int64)
    if spec["kind"] == "zeros":
        return np.zeros(spec["shape"], dtype=np.int64)
    return np.asarray(spec["values"], dtype=np.int64)


def onnx_session(source: str | bytes, threads: int, processor: str = "cpu") -> Any:
    """Return an ONNX Runtime session with all graph optimisations enabled, as in production.

    `source` is the path or the content of an ONNX file. Raises `DeviceProblem` if ONNX Runtime cannot use the processor
    (`cpu` or `cuda`).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Otherwise idle threads of the session that ran last keep spinning on the cores that the current session needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    provider = f"{'CUDA' if processor == 'cuda' else 'CPU'}ExecutionProvider"
    available = provider in onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(source, options, providers=[provider]) if available else None
    if session is None or session.get_providers()[0] != provider:  # without this check it would silently use the CPU
        raise DeviceProblem(f"onnxruntime: {provider} does not work here; install onnxruntime-gpu, CUDA and cuDNN")
    return session


def onnx_runs(
    source: str | bytes, threads: int, processor: str, inputs: Sequence[Mapping[str, np.ndarray]]
) -> list[Run]:
    """For each set of inputs, return a function that runs a network on these inputs in ONNX Runtime.

    `source` is the path or the content of an ONNX file. Inputs that the network lacks are ignored.
    """
    session = onnx_session(source, threads, processor)
    input_names = {value.name for value in session.get_inputs()}

    def run_on(fed: dict[str, np.ndarray]) -> Run:
        return lambda: session.run(None, fed)

    return [run_on({name: value for name, value in arrays.items() if name in input_names}) for arrays in inputs]


def environment(device: Mapping[str, Any], module: str | None = None) -> dict[str, Any]:
    """Return the conditions that latency depends on: hardware, operating system, runtime and versions.

    `module` is the Python module whose `__version__` is the version of the runtime. By default, it has the name of the
    runtime. The entry `fingerprint` is a hash of all other entries.
    """
    flags = cpuinfo("flags") or cpuinfo("Features")
    conditions = {
        "processor": cpuinfo("model name") or platform.processor() or platform.machine(),
        "instructions": hashlib.sha256(flags.encode()).hexdigest()[:16],
        "bf16": "bf16" in flags,
        "vnni": "vnni" in flags,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "python": platform.python_version(),
        "runtime": device["runtime"],
        "runtime_version": importlib.import_module(module or device["runtime"]).__version__,
    }
    if device["processor"] == "cuda":
        cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        models = (line for card in cards for line in _read(str(card)).splitlines() if "Model" in line)
        conditions["gpus"] = ", ".join(models)
    text = json.dumps(conditions, sort_keys=True)
    return {**conditions, "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16]}


def cpuinfo(key: str) -> str:
    """Return the value of `key` for the first processor in /proc/cpuinfo, or an empty string if there is none."""
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


class _Archive:
    """The unpacked archive of `nas device bundle`: a folder with `job.json`, `networks.zip` and the results so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = json.loads((folder / "job.json").read_text())
        self.device = self.job["device"]
        self.networks = zipfile.ZipFile(folder / "networks.zip")

    def load(self, item: Mapping[str, Any], device: Mapping[str, Any], inputs: Sequence[Any]) -> list[Run]:
        return onnx_runs(self.networks.read(item["file"]), device["threads"], device["processor"], inputs)

    def measure(self) -> None:
        """Measure everything that has not been measured yet, then write `result.json` atomically."""
        partial = self.folder / "result.partial.json"
        conditions = environment(self.device)
        results = json.loads(partial.read_text()) if partial.exists() else {}
        if results.get("job") != self.job["digest"] or results.get("environment") != conditions:
            results = {"job": self.job["digest"], "environment": conditions, "groups": [], "peak_memory_mb": {}}
        prepare_process(self.device)
        for group in self.job["groups"][len(results["groups"]) :]:
            print(f"Measuring group {len(results['groups']) + 1} of {len(self.job['groups'])}", flush=True)
            results["groups"].append(measure_group(group, self.device, self.load))
            _write_json(partial, results)
        for item in self.job["memory"]:
            if item["name"] not in results["peak_memory_mb"]:
                path = Path(self.networks.extract(item["file"], self.folder))
                results["peak_memory_mb"][item["name"]] = peak_memory_apart({**item, "file": str(path)}, self.device)
                path.unlink()
                _write_json(partial, results)
        os.replace(partial, self.folder / "result.json")  # noqa: PTH105


def _write_json(path: Path, value: Any) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value))
    os.replace(draft, path)  # noqa: PTH105


def _load_onnx(item: Mapping[str, Any], device: Mapping[str, Any], inputs: Sequence[Any]) -> list[Run]:
    return onnx_runs(item["file"], device["threads"], device["processor"], inputs)


def _load_with(runtime: Any) -> Load:
    def load(item: Mapping[str, Any], device: Mapping[str, Any], inputs: Sequence[Any]) -> list[Run]:
        runs: list[Run] = runtime.load(Path(item["file"]), SimpleNamespace(**device), inputs)
        return runs

    return load


def _imported(name: str, folders: Sequence[str]) -> Any:
    """Return an instance of the class `name`, such as `nas.runtimes.open_vino:OpenVino`.

    `folders` are the folders in which Python also looks for modules.
    """
    sys.path += folders
    module, _, kind = name.partition(":")
    return getattr(importlib.import_module(module), kind)()


def main() -> None:
    """Measure the networks that `job.json` lists, in the folder of this file.

    With the option `--lines`, read the device from the first line of standard input, and answer the requests on the
    following lines instead. With the option `--memory`, read a network and a device from standard input instead, and
    print the peak memory of a process that serves this network. Each option can be followed by the class of the runtime
    and the folders of its modules. Without them, the runtime is ONNX Runtime.
    """
    option, *given = sys.argv[1:] or [""]
    if option:
        runtime = _imported(given[0], given[1:]) if given else None
        load = _load_with(runtime) if runtime else _load_onnx
        if option == "--lines":
            lines = map(json.loads, sys.stdin)
            answer(next(lines), lines, load, module=runtime.module if runtime else None)
        else:
            job = json.load(sys.stdin)
            print(json.dumps(peak_memory_mb(job["item"], job["device"], load)))
        return
    archive = _Archive(Path(__file__).resolve().parent)
    try:
        archive.measure()
    except DeviceProblem as problem:
        sys.exit(str(problem))
    print(f"Done. Import {archive.folder / 'result.json'} with `nas device import`.")


if __name__ == "__main__":
    main()
