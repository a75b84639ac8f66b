"""Exports models to ONNX by tracing, as other tools do, and scores the files. A `Job` describes what to compress."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn

from nas.data import truth_of
from nas.device import Device
from nas.export.artefact import ONNX_FILE, network_type_of
from nas.export.verification import Artefact, reload, sampling_error
from nas.form import OUTPUT_NAMES
from nas.model.configuration import INPUTS
from nas.tasks import Metric

OPSET = 17


class Traceable(nn.Module):
    """A model in a Hugging Face folder, with positional inputs and a single output, as `torch.onnx.export` needs it."""

    def __init__(self, folder: Path, input_names: Sequence[str], shape: Sequence[int]) -> None:
        super().__init__()
        self.model = reload(folder)
        self.input_names = list(input_names)
        ids, _, types = INPUTS
        values = {ids: 5, types: 0}
        self.example = tuple(torch.full(tuple(shape), values.get(name, 1)) for name in input_names)
        """Inputs for tracing: token ids, and a mask without padding."""
        self.output_name = OUTPUT_NAMES[network_type_of(folder)]

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the logits or embeddings."""
        logits: torch.Tensor = self.model(**dict(zip(self.input_names, values, strict=True))).logits
        return logits

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """The axes of inputs and output whose size is not fixed."""
        axes = {0: "batch", 1: "tokens"}
        with torch.inference_mode():
            has_tokens = self(*self.example).dim() > 2
        return dict.fromkeys(self.input_names, axes) | {self.output_name: axes if has_tokens else {0: "batch"}}


@dataclass(frozen=True)
class Job:
    """A teacher to compress, with everything that a tool may need."""

    teacher: Path
    """The Hugging Face folder of the teacher."""
    folder: Path
    """An empty folder for the tool's files."""
    device: Device
    """The device on which the files are measured."""
    input_names: tuple[str, ...]
    train: Dataset
    """The tokenised training set."""
    search: Dataset
    """The tokenised search set, on which a tool may compare networks."""
    metric: Metric
    max_length: int
    seed: int
    search_rows: int = 0
    """The number of rows of the search set on which a tool's own search may evaluate; if zero, it must not search."""
    layers: tuple[int, ...] = ()
    """The layers to keep in a layer reduction; if empty, the tool decides."""
    steps: int = 0
    """The number of steps for which a reduced network is distilled."""

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the inputs with which models are traced."""
        return self.device.batch_size, self.device.lengths[0]

    def traceable(self, folder: Path) -> Traceable:
        """Return a model of the teacher's type in the folder `folder`."""
        return Traceable(folder, self.input_names, self.shape)


def export(traceable: Traceable, path: Path) -> None:
    """Write a model to an ONNX file, with the exporter of PyTorch that Optimum and Olive use."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated, and warns about every branch that it traces
        torch.onnx.export(
            traceable.eval(),
            traceable.example,
            path,
            opset_version=OPSET,
            input_names=traceable.input_names,
            output_names=[traceable.output_name],
            dynamic_axes=traceable.dynamic_axes,
            dynamo=False,
        )


def as_artefact(path: Path, teacher: Path, folder: Path, device: Device) -> Artefact:
    """Copy an ONNX file and the teacher's `config.json` to a folder with an export's layout; return the artefact."""
    (folder / ONNX_FILE).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / ONNX_FILE)
    shutil.copyfile(teacher / "config.json", folder / "config.json")
    return Artefact(folder, device)


def judged(artefact: Artefact, metric: Metric, rows: Dataset, search: Dataset) -> tuple[float, float]:
    """Return the score of a network on some rows, and its standard error.

    If the metric's thresholds are still to be chosen, they are chosen on `search`.
    """
    if not metric.is_calibrated:
        metric = metric.calibrated(artefact.logits(search), truth_of(search))
    logits, labels = artefact.logits(rows), truth_of(rows)
    return metric.score(logits, labels), sampling_error(metric, logits, labels)
