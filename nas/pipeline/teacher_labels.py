"""Labels the search and test sets with the teacher's outputs, for metrics that compare networks with the teacher.

The step `data` computes and stores these labels before the step `teacher` is run. This is possible because the teacher
of such a study is never fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from nas.evaluate.accuracy import logits_of
from nas.export.sentences import SentenceEncoder
from nas.model.precision import training_processor
from nas.pipeline.teacher_checks import Teacher
from nas.study import Study
from nas.tasks import task_kind


def teacher_labels(teacher: Teacher, texts: Mapping[str, Dataset]) -> dict[str, list[np.ndarray]]:
    """Return the teacher's embeddings of each set of texts, as a dictionary from set name to list.

    An embedding is a float32 array of shape (outputs,). The texts must be tokenised by the teacher's tokenizer, and
    `teacher.checkpoint` must be set.
    """
    assert teacher.checkpoint is not None
    encoder = SentenceEncoder(teacher.checkpoint.load(teacher.config), Path(teacher.source))
    nn.Module.to(encoder, training_processor())
    return {
        name: list(logits_of(encoder, rows, f"The teacher's embeddings of the {name} set"))
        for name, rows in texts.items()
    }


def pooling_of(study: Study, source: str) -> dict[str, Any] | None:
    """Return the settings of the teacher's pooling, on which its embeddings depend; None if `source` is a hub id."""
    return task_kind(study.task.kind).form(source).identity if Path(source).is_dir() else None
