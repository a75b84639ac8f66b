"""Stores the teacher's outputs for the training texts, if stored outputs save time.

The supernet's training and the final training then read the stored outputs, and do not run the teacher in every step.
After the last training stage, the stored outputs are deleted.
"""

from __future__ import annotations

import shutil
from typing import Any

from datasets import Dataset

from nas.files import file_digest
from nas.model import CompactBert
from nas.model.precision import training_processor, uses_bf16
from nas.pipeline.run import Run
from nas.pipeline.teachers import scale_of
from nas.pipeline.unlabelled import distilled_from
from nas.supernet.outputs import TeacherOutputs, remove, size_in_bytes, stored_inputs, write

_RESULT_VERSION = 1
"""Increase this when the values in the files change, so that older files are rebuilt."""
_LEAST_EPOCHS = 2.0
"""Outputs are stored only if training has at least this many epochs. With fewer epochs, stored outputs would save too
little time."""
_GB = 1e9


def outputs_of(run: Run, texts: Dataset, teacher: CompactBert) -> TeacherOutputs | None:
    """Return the teacher's stored outputs for `texts`, the distillation texts. Store the outputs first if necessary.

    The units of `teacher` must be ordered by importance. Return None if `keep_outputs` does not store outputs. Every
    training step then has to run the teacher.
    """
    return TeacherOutputs(run.outputs, texts, teacher.config.readout) if keep_outputs(run, texts, teacher) else None


def keep_outputs(run: Run, texts: Dataset, teacher: CompactBert) -> bool:
    """Store the teacher's outputs for the texts, unless they are stored already. Return whether outputs are stored.

    The units of `teacher` must be ordered by importance. Outputs are not stored in any of these cases:

    - Training runs on a GPU, or is too short for stored outputs to save time.
    - The files would need more than `training.outputs_gb` or more than half of the free disk space.
    - Random tokens are replaced in every step (`replaced_tokens`), so the outputs differ from step to step.
    - The loss compares attention relations (`relation_weight`), which logits and hidden states do not contain.
    """
    if not _saves_time(run, texts):
        return False
    sources: dict[str, Any] = {
        "form": _RESULT_VERSION,
        "teacher": file_digest(run.ordered_teacher / "model.safetensors"),
        "texts": [file_digest(path) for path in distilled_from(run)],
    }
    if stored_inputs(run.outputs) != sources:
        needed_bytes, free_bytes = size_in_bytes(teacher.config, texts), shutil.disk_usage(run.folder).free
        if needed_bytes > min(run.study.training.outputs_gb * _GB, free_bytes / 2):
            return False
        with scale_of(run).removed_from(teacher.classifier):
            write(run.outputs, teacher, texts, sources, uses_bf16(teacher.config.hidden_size, "cpu"))
    return True


def drop_outputs(run: Run) -> None:
    """Delete the teacher's stored outputs, which may take up gigabytes of disk space."""
    remove(run.outputs)


def _saves_time(run: Run, texts: Dataset) -> bool:
    outputs_vary = run.study.replaced_tokens > 0 or run.study.supernet.relation_weight > 0
    return not outputs_vary and training_processor() == "cpu" and _epochs(run, texts) >= _LEAST_EPOCHS


def _epochs(run: Run, texts: Dataset) -> float:
    """Return the total number of epochs of the supernet's training and the final training.

    If the study sets `training.hours`, this number is not known in advance. In that case, return `_LEAST_EPOCHS`, so
    that outputs are stored.
    """
    study, rows = run.study, max(1, len(texts))
    if study.training.hours:
        return _LEAST_EPOCHS
    supernet = study.supernet.steps * study.supernet.batch_size / rows
    if not study.export.fine_tune:
        return supernet
    return supernet + study.final_steps(rows) * study.export.batch_size / rows
