"""Compare number formats of ONNX Runtime and OpenVINO on the teacher of a study, on one thread of this CPU.

For each runtime and each format that it supports, the benchmark measures the latency of the teacher, its accuracy on
the test set, and the share of texts for which the runtime gives the same answer as the simulation in torch. Latencies
are measured in this process, in rounds in which every network runs once. If the teacher is missing, the benchmark first
prepares it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
from datasets import Dataset
from rich.console import Console

from nas.architecture import compress_all
from nas.data import truth_of
from nas.device import Device
from nas.evaluate.accuracy import logits_of
from nas.export.artefact import served_files, write_artefact
from nas.export.verification import Artefact
from nas.latency.networks import load_network
from nas.model import CompactBert
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.calibration import calibrate_on_search_set
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.data import metric_of, splits
from nas.pipeline.profiles import texts
from nas.pipeline.teachers import load_teacher
from nas.supernet import BertSupernet

FORMATS = (
    ("onnxruntime", "float32", "none"),
    ("onnxruntime", "float32", "int8"),
    ("onnxruntime", "float32", "static_int8"),
    ("onnxruntime", "float32", "static_int8(mean)"),
    ("openvino", "float32", "none"),
    ("openvino", "bfloat16", "none"),
    ("openvino", "float32", "static_int8"),
    ("openvino", "bfloat16", "static_int8"),
    ("openvino", "float32", "static_int8(mean)"),
)
"""Triples: a runtime, the number format of the uncompressed parts, and the compression method of all blocks."""
_WARM_UP = 3


def measure_all(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the teacher in each format, print a table, and return the results, keyed by format."""
    prepare_teacher(run)
    supernet, test = BertSupernet(load_teacher(run)), splits(run).test
    if arguments.examples:
        test = test.select(range(min(arguments.examples, len(test))))
    results, artefacts = dict[str, dict[str, Any]](), dict[str, Artefact]()
    with TemporaryDirectory() as folder:
        for method in dict.fromkeys(method for *_, method in FORMATS):
            network = supernet.extract(compress_all(supernet.weights.config.architecture, method))
            calibrate_on_search_set(run, network)
            served = _served(run, network, Path(folder) / method, method)
            simulated = logits_of(network, test, f"Simulation of {method}")
            results |= {name: _scores(run, each, test, simulated) for name, each in served.items()}
            artefacts |= served
        latencies = _latencies(run, artefacts, arguments.tokens, arguments.rounds, supernet.weights.config.vocab_size)
    results = {name: result | {"p50_ms": latencies[name]} for name, result in results.items()}
    _print_table(results, arguments.tokens)
    return {"examples": len(test), "results": results, "gain": _gains(latencies)}


def _served(run: Run, network: CompactBert, folder: Path, method: str) -> dict[str, Artefact]:
    """Write a network, and return one artefact for each format with this method, keyed by the format's name."""
    runtimes = list(dict.fromkeys(runtime for runtime, *_ in FORMATS))
    write_artefact(network, load_tokenizer(run.teacher), folder, runtimes, run.study.task.max_length)
    return {
        f"{runtime} {number_format} {method}": Artefact(
            folder, Device.model_validate({"name": "cpu", "runtime": runtime, "number_format": number_format})
        )
        for runtime, number_format, used in FORMATS
        if used == method
    }


def _scores(run: Run, artefact: Artefact, test: Dataset, simulated: np.ndarray) -> dict[str, Any]:
    """Return the accuracy of a served file, and the share of texts with the same answer from file and simulation."""
    metric, labels = metric_of(run), truth_of(test)
    logits = artefact.logits(test)
    answers, expected = metric.answers(logits, labels), metric.answers(simulated, labels)
    agreement = None if answers is None or expected is None else float(np.mean(answers == expected))
    return {"accuracy": metric.score(logits, labels), "agreement": agreement}


def _latencies(
    run: Run, artefacts: Mapping[str, Artefact], lengths: Sequence[int], rounds: int, vocab_size: int
) -> dict[str, dict[str, float]]:
    """Return the median latency of each network in ms, keyed by name and then by the number of tokens."""
    inputs = []
    for length in lengths:
        ids = np.asarray(texts(run).rows(1, length, vocab_size))
        inputs.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    runs = {
        name: load_network(served_files(each.folder, each.device.runtime)[0], each.device, inputs)
        for name, each in artefacts.items()
    }
    samples: dict[str, dict[str, list[float]]] = {name: {str(length): [] for length in lengths} for name in runs}
    for number in range(_WARM_UP + rounds):
        for name, functions in runs.items():
            for length, function in zip(lengths, functions, strict=True):
                function()  # the caches still hold the data of another network
                started = time.perf_counter()
                function()
                if number >= _WARM_UP:
                    samples[name][str(length)].append(1e3 * (time.perf_counter() - started))
    return {
        name: {length: round(median(values), 3) for length, values in by_length.items()}
        for name, by_length in samples.items()
    }


def _gains(latencies: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the speed-up of the fastest 8-bit format over the fastest float format, keyed by runtime and tokens."""
    gains = dict[str, dict[str, float]]()
    for runtime in dict.fromkeys(runtime for runtime, *_ in FORMATS):
        own = {name: values for name, values in latencies.items() if name.startswith(runtime)}
        gains[runtime] = {}
        for length in next(iter(own.values())):
            fastest_float = min(values[length] for name, values in own.items() if name.endswith(" none"))
            fastest_int8 = min(values[length] for name, values in own.items() if not name.endswith(" none"))
            gains[runtime][length] = round(fastest_float / fastest_int8, 3)
    return gains


def _print_table(results: Mapping[str, Mapping[str, Any]], lengths: Sequence[int]) -> None:
    columns = ("", *(f"ms, {length} tokens" for length in lengths), "accuracy", "agreement")
    table = common.table("the teacher on one thread", *columns)
    for name, result in results.items():
        agreement = "" if result["agreement"] is None else f"{result['agreement']:.4f}"
        milliseconds = (f"{result['p50_ms'][str(length)]:.2f}" for length in lengths)
        table.add_row(name, *milliseconds, f"{result['accuracy']:.4f}", agreement)
    Console().print(table)


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 25], help="lengths of the measured texts")
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds of the latency measurement")
    parser.add_argument("--examples", type=int, help="number of texts of the test set; by default, all")
    common.main(parser.parse_args(), measure_all)
