"""What the benchmarks share: their arguments, the run they work on, and the JSON line they end with."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import datasets
import transformers

from nas.pipeline import Run
from nas.study import Study

ROOT = Path(__file__).parents[2]
SST2 = ROOT / "studies" / "sst2-minilm-onnxruntime"

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
datasets.disable_progress_bars()
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()


def parser(about: str | None) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--study", default=str(SST2), help="study.toml, its folder, or the name of a shipped study")
    made.add_argument("--runs", type=Path, default=Path("runs"), help="folder of results, as for `nas run`")
    made.add_argument("--set", dest="variables", action="append", default=[], metavar="NAME=VALUE")
    made.add_argument("--threads", type=int, help="threads of torch")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return made


def run_of(arguments: argparse.Namespace) -> Run:
    """The run that the arguments name."""
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    variables = dict(item.split("=", 1) for item in arguments.variables)
    return Run.of(Study.load(arguments.study, variables), arguments.runs)


def finish(arguments: argparse.Namespace, result: dict[str, object]) -> None:
    """Print the result as JSON if that was asked for."""
    if arguments.json:
        print(json.dumps(result))
