"""Reads a teacher's outputs from columns of the data, for studies in which the teacher itself is not available.

A study names the columns in `teacher.outputs`. Both the training data and the unlabelled texts must have these columns.
`separate_teacher.py` stores the outputs for the distillation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nas.data import Unlabelled
from nas.data.files import values_of
from nas.data.task import read_source
from nas.errors import DataError, TeacherError, shown
from nas.pipeline.data import ReadTask
from nas.pipeline.run import Run
from nas.pipeline.snapshots import pinned_task
from nas.pipeline.sources import data_files
from nas.pipeline.unlabelled import sources
from nas.tasks.labels import parse_numbers


def output_columns(outputs: Mapping[str, str], label_names: Sequence[str]) -> list[str]:
    """Return the names of the columns with the teacher's outputs, in the order of the task's labels.

    `outputs` maps each label to its column. If the task predicts one number, `label_names` is empty, and `outputs` must
    have exactly one entry. Otherwise, the keys of `outputs` must be exactly the label names. Raises `TeacherError` if
    `outputs` does not meet these conditions.
    """
    if not label_names:
        if len(outputs) != 1:
            raise TeacherError(
                f"teacher.outputs: must name one column, since the task predicts one number, but names {len(outputs)}; "
                'write, for example, { score = "..." }'
            )
        return list(outputs.values())
    if set(outputs) != set(label_names):
        raise TeacherError(
            f"teacher.outputs: its keys must be exactly the labels {', '.join(map(repr, label_names))}, but got "
            f"{', '.join(map(repr, outputs)) or 'none'}; correct the keys"
        )
    return [outputs[name] for name in label_names]


def read_outputs(run: Run, task: ReadTask, unlabelled: Unlabelled | None) -> dict[str, np.ndarray]:
    """Return one array (texts, outputs) of the teacher's outputs for each set of texts.

    The keys are the names of the sets: `train`, `search` and, if the study has unlabelled texts, `unlabelled`. Raises
    `DataError` if a column is missing or a value is not a finite number.
    """
    study = run.study
    columns = output_columns(study.teacher.outputs or {}, task.splits.label_names)
    training = data_files(run).get("train", study.task.sets["train"])
    all_rows = np.concatenate([_read_output_columns(run, str(source), columns, is_file=False) for source in training])
    outputs = {name: all_rows[list(task.splits.rows[name])] for name in ("train", "search")}
    if unlabelled:
        outputs_by_source = [
            _read_output_columns(run, source, columns, is_file)[list(rows)]
            for (source, is_file), rows in zip(sources(run), unlabelled.rows, strict=True)
        ]
        outputs["unlabelled"] = np.concatenate(outputs_by_source)
    return outputs


def _read_output_columns(run: Run, source: str, columns: Sequence[str], is_file: bool) -> np.ndarray:
    rows = read_source(pinned_task(run), source, columns, is_file).rows
    return np.array(
        [_finite_numbers(source, column, values_of(rows, column)) for column in columns], dtype=np.float32
    ).T


def _finite_numbers(source: str, column: str, values: Sequence[object]) -> list[float]:
    numbers = parse_numbers(values)
    bad_row = next((row for row, value in enumerate(numbers) if not math.isfinite(value)), None)
    if bad_row is not None:
        raise DataError(
            f"{source}: column {column!r}: an output of the teacher must be a finite number, but row {bad_row} "
            f"(counted from 0) holds {shown(values[bad_row])}; correct this value"
        )
    return numbers
