"""The teacher's outputs as the labels of the search set and the test set, for metrics that compare networks with it.

The step `data` computes and stores them. This is possible because such a teacher is never fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from nas.evaluate.accuracy import logits_of
from nas.export.sentences import SentenceEncoder
from nas.files import file_digest
from nas.model.precision import training_processor
from nas.pipeline.teachers import Teacher
from nas.study import Study
from nas.tasks import task_kind


def teacher_labels(teacher: Teacher, texts: Mapping[str, Dataset]) -> dict[str, list[np.ndarray]]:
    """Return the teacher's embedding of each text, (outputs,), in float32, for each set of texts.

    The texts are tokenised by the teacher's own tokenizer. The teacher's weights must have been checked.
    """
    assert teacher.checkpoint is not None
    encoder = SentenceEncoder(teacher.checkpoint.load(teacher.config), Path(teacher.source))
    nn.Module.to(encoder, training_processor())
    return {
        name: list(logits_of(encoder, rows, f"The teacher's embeddings of the {name} set"))
        for name, rows in texts.items()
    }


def identity_of_labels(study: Study, source: str) -> list[Any]:
    """Return values that identify the weights and the pooling of a teacher in a folder; empty values for a hub id."""
    folder = Path(source)
    weights = {path.name: file_digest(path) for path in folder.glob("*.safetensors")}
    return [weights, asdict(task_kind(study.task.kind).form(source)) if folder.is_dir() else None]
