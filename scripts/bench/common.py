"""Shared code of the benchmarks.

It defines their arguments, opens the run that they use, and prints the results as one line of JSON.
"""

from __future__ import annotations

# isort: off
import nas  # noqa: F401  # before torch, so that it can choose how torch's idle threads wait
# isort: on

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import torch
import transformers
from rich.table import Table

from nas.errors import NasError, SearchError
from nas.evaluate import CandidateResult
from nas.model import CompactBertConfig
from nas.pipeline import Run
from nas.pipeline.searches import search_inputs
from nas.search.costs import Costs
from nas.search.sampler import Trials
from nas.search.storage import Storage
from nas.space import SearchSpace
from nas.study import Search, Study

SST2 = Path(__file__).parents[2] / "studies" / "sst2-minilm-onnxruntime"


def parser(description: str | None, with_study: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks share. `--help` prints `description`.

    With `with_study`, the parser also has the arguments of benchmarks that use the run of a study.
    """
    argument_parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    argument_parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    if not with_study:
        return argument_parser
    argument_parser.add_argument(
        "--study", default=str(SST2), help="path of a study.toml or its folder, or the name of a shipped study"
    )
    argument_parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that contains the runs, as for `nas run`"
    )
    argument_parser.add_argument("--set", dest="variables", action="append", default=[], metavar="NAME=VALUE")
    argument_parser.add_argument("--threads", type=int, help="number of torch threads")
    return argument_parser


def table(title: str, *columns: str, left: Collection[str] = ()) -> Table:
    """Return an empty table. The first column and the columns in `left` are left-aligned, all others right-aligned."""
    new_table = Table(title=title)
    for column in columns:
        new_table.add_column(column, justify="left" if column in (columns[0], *left) else "right")
    return new_table


def main(arguments: argparse.Namespace, measure: Callable[[Run, argparse.Namespace], dict[str, Any]]) -> None:
    """Call `measure` with the run that the arguments name, and print its result if `--json` is given.

    The run is locked while `measure` runs. Errors are handled as in `run_benchmark`.
    """

    def measure_run(_: argparse.Namespace) -> dict[str, Any]:
        run = Run.of(study_of(arguments), arguments.runs)
        with run.locked():
            return measure(run, arguments)

    run_benchmark(arguments, measure_run)


def study_of(arguments: argparse.Namespace) -> Study:
    """Load the study that the arguments name, and set the number of torch threads."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    variables = dict(item.partition("=")[::2] for item in arguments.variables)
    return Study.load(arguments.study, variables)


def run_benchmark(arguments: argparse.Namespace, measure: Callable[[argparse.Namespace], dict[str, Any]]) -> None:
    """Call `measure` with the arguments, and print its result if `--json` is given.

    If `measure` raises a `NasError`, print one line and exit with the exit code of the error.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    try:
        result = measure(arguments)
    except NasError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    if arguments.json:
        print(json.dumps(result))


def journal_of(run: Run) -> Path:
    """Return the path of the journal of a run's search. Raises `SearchError` if the trials are in a database."""
    if run.study.search.storage:
        raise SearchError(
            "search.storage: this benchmark reads trials only from a journal, not from a database; remove this setting"
        )
    return run.journal


def values_of(costs: Costs) -> list[str]:
    """Return the names of the values that each trial records: accuracy, and the predicted latency on each device."""
    return ["accuracy", *costs.profiles]


@contextmanager
def temporary_trials(
    space: SearchSpace, costs: Costs, settings: Search, seed: int, kind: Callable[..., Trials] = Trials
) -> Iterator[Trials]:
    """Yield the trials of a new search. Their storage is removed when the `with` block ends."""
    with TemporaryDirectory() as folder:
        storage = Storage(Path(folder) / "journal.log", "benchmark", "made up", values_of(costs))
        yield kind(storage, space, costs, settings, seed)


def results_in(journal: bytes, run: Run, costs: Costs) -> list[CandidateResult]:
    """Return the results of a run's search. `journal` is the content of its journal.

    The content is first copied to a temporary file, because opening a journal changes it.
    """
    study = run.study
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "journal.log"
        copy.write_bytes(journal)
        storage = Storage(copy, study.name, search_inputs(run), values_of(costs))
        return Trials(storage, study.space, costs, study.search, study.seed).results()


def config_of(space: SearchSpace) -> CompactBertConfig:
    """Return a network configuration with the teacher's sizes in a search space.

    Use it for measurements that do not depend on the weights.
    """
    config = CompactBertConfig(attention_head_size=space.teacher.head_size, num_labels=2)
    return config.with_architecture(space.largest())


@contextmanager
def busy_core() -> Iterator[None]:
    """Run a process that computes all the time until the `with` block ends.

    The process is bound to the last processor if the system allows it.
    """
    code = "import numpy; a = numpy.ones((512, 512), dtype='f')\nwhile True: a @ a"
    single_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | single_thread)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
    try:
        yield
    finally:
        process.kill()
        process.wait()
