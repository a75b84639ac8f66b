"""The step that fits the static model of a device: a linear classifier on the mean of a text's token embeddings.

The static model is one of the device's baselines. A compressed network is useful only if it is more accurate than this
model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas.data import truth_of
from nas.export.artefact import ONNX_FILE, VERIFICATION_FILE
from nas.export.static import StaticModel
from nas.export.verification import verify_file
from nas.files import digest, write_json
from nas.pipeline.data import metric_of, splits
from nas.pipeline.exports import baselines_inputs, reference_of
from nas.pipeline.profiles import device_of, texts
from nas.pipeline.run import Run
from nas.pipeline.teachers import load_teacher
from nas.progress import Stopwatch, busy

KIND = "static"
_RESULT_VERSION = 1
"""Increase this when static models are fitted differently than before, so that older ones are rebuilt."""


def folder_of(run: Run, device: str) -> Path:
    """Return the folder of a device's static model."""
    return run.baselines(device) / KIND


def static_inputs(run: Run, device: str) -> str:
    """Return the digest of everything that a device's static model depends on, including the machine."""
    return digest([_RESULT_VERSION, baselines_inputs(run, device)])


def make_static(run: Run, stopwatch: Stopwatch, device: str) -> None:
    """Fit and write a device's static model, measure it together with the teacher, and write `verification.json`."""
    resolved_device, folder, data, metric = device_of(run, device), folder_of(run, device), splits(run), metric_of(run)
    with busy("Fitting the static model"):
        vectors = load_teacher(run).state_dict()["bert.embeddings.word_embeddings.weight"].numpy()
        model = StaticModel.fit(vectors.astype(np.float64), data.train, data.search, metric)
        model.save(folder / ONNX_FILE)
    metric = metric.calibrated(model.logits(data.search), truth_of(data.search))
    verification = verify_file(
        folder, resolved_device, reference_of(run, device), data.test, metric, texts(run), model.params
    )
    write_json(folder / VERIFICATION_FILE, verification)
