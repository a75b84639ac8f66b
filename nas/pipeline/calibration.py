"""Calibrates a network before it is exported: computes the ranges of its activations on texts of the search set."""

from __future__ import annotations

from nas.data import batches_by_length
from nas.model import CompactBert
from nas.model.calibration import calibrate, lacks_calibration
from nas.pipeline.data import splits
from nas.pipeline.run import Run
from nas.progress import busy
from nas.space import evenly_spaced

_TEXTS = 512
"""The maximum number of texts on which a network is calibrated."""


def calibrate_on_search_set(run: Run, model: CompactBert) -> None:
    """Calibrate a network on evenly spaced rows of the search set, unless it needs no calibration."""
    if not lacks_calibration(model):
        return
    search_set = splits(run).search
    chosen = search_set.select(evenly_spaced(min(_TEXTS, len(search_set)), len(search_set)))
    with busy("Calibrating the ranges of activations"):
        calibrate(model, (batch.inputs for batch in batches_by_length(chosen)))
