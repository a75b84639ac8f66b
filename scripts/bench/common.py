"""What the benchmarks share: their arguments, the run they work on, and the JSON line they end with."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from nas.errors import NasError
from nas.pipeline import Run
from nas.study import Study

SST2 = Path(__file__).parents[2] / "studies" / "sst2-minilm-onnxruntime"


def parser(about: str | None) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--study", default=str(SST2), help="study.toml, its folder, or the name of a shipped study")
    made.add_argument("--runs", type=Path, default=Path("runs"), help="folder of results, as for `nas run`")
    made.add_argument("--set", dest="variables", action="append", default=[], metavar="NAME=VALUE")
    made.add_argument("--threads", type=int, help="threads of torch")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return made


def main(arguments: argparse.Namespace, measure: Callable[[Run], dict[str, Any]]) -> None:
    """Measure on the run that the arguments name, alone; a user's mistake is one line and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        variables = dict(item.partition("=")[::2] for item in arguments.variables)
        run = Run.of(Study.load(arguments.study, variables), arguments.runs)
        with run.locked():
            result = measure(run)
    except NasError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    if arguments.json:
        print(json.dumps(result))
