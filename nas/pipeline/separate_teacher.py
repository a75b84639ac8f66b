"""Pipeline steps for the separate teacher from which a `[student]` learns.

The steps fine-tune this teacher, if the study asks for it, and store its logits. The teacher may belong to any model
family. Its tokenizer may differ from the student's, so the texts are tokenised a second time. A student's distillation
uses only the teacher's logits, and never replaces tokens of the texts. The logits of all texts are therefore computed
once before training, and the teacher is not run during training.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from nas.data import TaskData, batches_by_length, truth_of
from nas.data.task import tokenised
from nas.errors import DataError, TeacherError
from nas.evaluate.accuracy import forward_of, predict
from nas.files import digest, read_json, write_atomically, write_json
from nas.model.any_classifier import AnyClassifier
from nas.model.precision import training_processor, uses_bf16
from nas.model.tokenizer import make_uniform
from nas.pipeline.data import ReadTask, metric_of, read_task, splits
from nas.pipeline.fine_tuning import FineTuningContext, fine_tune
from nas.pipeline.given_outputs import output_columns, read_outputs
from nas.pipeline.run import Run, once
from nas.pipeline.snapshots import Role, commit, errors_with_hub_ids, hub_model, hub_sources
from nas.pipeline.sources import data_inputs, file_digests, fine_tuning_versions, given_model, model_identity
from nas.pipeline.teacher_checks import check_kind
from nas.pipeline.unlabelled import read_new_texts, unlabelled_inputs
from nas.pipeline.watching import watchers_of
from nas.progress import Stopwatch, busy, say, tracked
from nas.study import Study
from nas.supernet.scale import STANDARD, Scale
from nas.tasks import Head, Metric, task_kind
from nas.tasks.numbering import numbering
from nas.threads import side_by_side

_RESULT_VERSION = 1
"""Increase this when the same files lead to a different teacher or different logits, so that older ones are rebuilt."""
_TEXTS_PER_PART = 8192
"""Number of texts whose logits are stored in one file. After an interruption, the logits of at most this many texts are
computed again."""
_LOGITS_FILE, _ABOUT_FILE = "logits.safetensors", "about.json"
_ROLE: Role = "separate teacher"


def source_of(run: Run) -> str:
    """Return the folder or hub id of the separate teacher from which the study's student learns."""
    return given_model(run.study, run.study.teacher)


def _teacher_folder(run: Run, weights: bool = True) -> str:
    """Return the separate teacher's folder. Download a hub model first, but its weights only if `weights` is set."""
    return str(hub_model(run, weights, _ROLE)) if _ROLE in hub_sources(run.study) else source_of(run)


@once
def separate_identity(run: Run) -> dict[str, Any]:
    """Return JSON values that identify the separate teacher: settings, and a hub commit or the digests of its files."""
    if not run.study.teacher.is_loaded:
        return {"outputs": run.study.teacher.outputs}  # the files with these columns are part of `data_inputs`
    source = source_of(run)
    files = file_digests(source, "*.json", "*.txt", "*.model", "*.safetensors")
    return model_identity(run, run.study.teacher, source, _ROLE) | {"files": files}


@once
def separate_teacher_inputs(run: Run) -> str:
    """Return the digest of everything that the fine-tuned separate teacher depends on."""
    versions = fine_tuning_versions(run.study, run.study.teacher)
    return digest([_RESULT_VERSION, data_inputs(run), separate_identity(run), *versions])


@once
def logits_inputs(run: Run) -> str:
    """Return the digest of everything that the separate teacher's logits depend on."""
    texts = [unlabelled_inputs(run)] if run.study.task.unlabelled else []
    return digest([_RESULT_VERSION, separate_teacher_inputs(run), *texts])


@errors_with_hub_ids
def check_separate_teacher(run: Run, label_names: Sequence[str]) -> None:
    """Raise `TeacherError` if the separate teacher is not a loadable classifier or lacks one of the task's labels.

    The weights of a hub model are not checked. Nothing is checked if the study has no `[student]`, or if the teacher's
    logits are already stored.
    """
    if not run.study.student or run.is_done("teacher-logits", logits_inputs(run)):
        return
    if run.study.teacher.outputs is not None:
        output_columns(run.study.teacher.outputs, label_names)
    else:
        teacher = AnyClassifier.of(_teacher_folder(run, weights=False), weights=_ROLE not in hub_sources(run.study))
        if run.study.teacher.fine_tune is None:
            check_kind(run.study, teacher.source, teacher.config, len(teacher.output_names))
            _output_columns(run.study, teacher, label_names)


def operations_for_a_token(run: Run) -> float | None:
    """Estimate the separate teacher's operations per token, counting only the matrix products of its layers.

    Return None if no separate teacher has to be run, or if its configuration does not contain the sizes of its layers.
    """
    if not run.study.student or not run.study.teacher.is_loaded or run.is_finished("teacher-logits"):
        return None
    config = AnyClassifier.of(_teacher_folder(run, weights=False), weights=False).config
    names = ("num_hidden_layers", "hidden_size", "intermediate_size")
    layers, hidden, inner = (getattr(config, name, None) for name in names)
    return 2.0 * layers * hidden * (4 * hidden + 2 * inner) if layers and hidden and inner else None


@errors_with_hub_ids
def make_separate_teacher(run: Run, stopwatch: Stopwatch) -> None:
    """Fine-tune the separate teacher on the labelled rows, and save it in the run's folder."""
    study, settings = run.study, run.study.teacher.fine_tune
    assert settings
    torch.manual_seed(study.seed)
    teacher = AnyClassifier.of(_teacher_folder(run))
    make_uniform(teacher.tokenizer)
    with busy("Tokenising the data for the teacher"):
        data = _tokenised_splits(read_task(run, weights=False), teacher)
    kind = task_kind(study.task.kind)
    model = teacher.load(kind.problem_type, kind.output_names(data.label_names))
    origin = {"form": _RESULT_VERSION, "teacher": separate_teacher_inputs(run)}
    fine_tune(
        study,
        settings,
        model,
        teacher.tokenizer,
        data,
        FineTuningContext(run.separate_teacher, origin, watchers=watchers_of(run)),
    )
    model.save_pretrained(run.separate_teacher)
    teacher.tokenizer.save_pretrained(run.separate_teacher)


@errors_with_hub_ids
def make_logits(run: Run, stopwatch: Stopwatch) -> None:
    """Store the separate teacher's logits for all texts, and the teacher's accuracy.

    The logits are computed or, if the study names columns that hold them, read from the data.
    """
    if run.study.teacher.is_loaded:
        _compute_logits(run)
    else:
        _read_logits(run)


def _read_logits(run: Run) -> None:
    with busy("Reading the teacher's outputs"):
        task = read_task(run, weights=False)
        unlabelled = read_new_texts(run, task) if run.study.task.unlabelled else None
        outputs = read_outputs(run, task, unlabelled)
    search_labels = truth_of(splits(run).search)
    metric = metric_of(run).calibrated(outputs["search"], search_labels)
    scores = {"search_accuracy": metric.score(outputs["search"], search_labels), "test_accuracy": None}
    distilled = np.concatenate([outputs["train"], *([outputs["unlabelled"]] if unlabelled else [])])
    _store(run, distilled, len(outputs["train"]), metric, {"fine_tuned_here": False, **scores})


def _compute_logits(run: Run) -> None:
    study = run.study
    is_fine_tuned = study.teacher.fine_tune is not None
    teacher = AnyClassifier.of(str(run.separate_teacher) if is_fine_tuned else _teacher_folder(run))
    with busy("Tokenising the texts for the teacher"):
        task = read_task(run, weights=False)
        labelled = _tokenised_splits(task, teacher)
        unlabelled = _tokenised_unlabelled(run, task, teacher) if study.task.unlabelled else None
    columns, note = _output_columns(study, teacher, splits(run).label_names)
    if note:
        say(note)
    model = teacher.load(task_kind(study.task.kind).problem_type).eval()
    parts_folder = run.teacher_logits / "parts"
    logits_in_parts = _LogitsInParts(model, columns, parts_folder)
    distilled = logits_in_parts.stored("train", labelled.train)
    if unlabelled is not None:
        distilled = np.concatenate([distilled, logits_in_parts.stored("unlabelled", unlabelled)])
    metric = metric_of(run)
    scores = _scores(metric, labelled, logits_in_parts)
    _store(run, distilled, len(labelled.train), metric, {"fine_tuned_here": is_fine_tuned, **scores})
    shutil.rmtree(parts_folder, ignore_errors=True)


def _store(run: Run, logits: np.ndarray, labelled: int, metric: Metric, about: dict[str, Any]) -> None:
    """Store the teacher's logits, and `about`, a dictionary of facts about the teacher.

    The first `labelled` rows of `logits` belong to the training set, and the other rows to the unlabelled texts.
    In a task with one output, all logits are standardised, so that the logits of the training rows have mean 0 and
    standard deviation 1.
    """
    scale = Scale.of(logits[:labelled, 0]) if task_kind(run.study.task.kind).has_one_output else STANDARD
    say(f"The student's teacher: {metric.label} {about['search_accuracy']:.3f} on the search set")
    _save((logits - scale.mean) / scale.deviation, run.teacher_logits / _LOGITS_FILE)
    about |= {"model": run.study.teacher.model, "commit": commit(run, _ROLE)}
    write_json(run.teacher_logits / _ABOUT_FILE, about | {"metric": metric.label, "texts": len(logits)})


def _scores(metric: Metric, data: TaskData, logits_in_parts: _LogitsInParts) -> dict[str, float]:
    """Return the teacher's accuracy on the search set and on the test set.

    If `task.threshold` is `search`, the metric's thresholds are chosen on the search set.
    """
    scores = {}
    for name in ("search", "test"):
        logits, labels = logits_in_parts.stored(name, data.splits[name]), truth_of(data.splits[name])
        metric = metric.calibrated(logits, labels)
        scores[f"{name}_accuracy"] = metric.score(logits, labels)
    return scores


def teacher_logits(run: Run) -> np.ndarray | None:
    """Return the separate teacher's logits for all distillation texts, as an array of shape (texts, outputs).

    If the task has one output, the logits are standardised. Return None if the study has no `[student]`.
    """
    return load_file(run.teacher_logits / _LOGITS_FILE)["logits"] if run.study.student else None


def about_separate_teacher(run: Run) -> dict[str, Any] | None:
    """Return facts about a student's separate teacher, such as its name and accuracy.

    Return None if the study has no `[student]`, or if the teacher's logits are not stored yet.
    """
    if not run.study.student or not run.is_finished("teacher-logits"):
        return None
    facts: dict[str, Any] = read_json(run.teacher_logits / _ABOUT_FILE, DataError)
    return facts


def _output_columns(study: Study, teacher: AnyClassifier, label_names: Sequence[str]) -> tuple[list[int], str]:
    """Return a list with the index of the teacher's output for each of the task's labels, and a message for the user.

    The message describes how the teacher numbers the labels. The message is empty if there is nothing to report. Raises
    `TeacherError` if the teacher has no output for one of the labels.
    """
    names = teacher.output_names
    if not label_names:
        if len(names) != 1:
            raise TeacherError(
                f"teacher.model: {teacher.source} has {len(names)} labels, but the task predicts one number; give a "
                "teacher fine-tuned for this task, or set teacher.fine_tune"
            )
        return [0], ""
    class_numbering = numbering(label_names, Head(teacher.source, names))
    return [class_numbering.numbers[name] for name in label_names], class_numbering.note


def _tokenised_splits(task: ReadTask, teacher: AnyClassifier) -> TaskData:
    """Return the splits tokenised for the separate teacher, with the same rows as the files in the folder `data`."""
    return task.splits.encode(teacher.tokenizer, teacher.longest(task.max_length), teacher.has_types)


def _tokenised_unlabelled(run: Run, task: ReadTask, teacher: AnyClassifier) -> Dataset:
    """Return the unlabelled texts, tokenised for the separate teacher and in the order of the folder `unlabelled`."""
    texts = read_new_texts(run, task).texts
    return tokenised(texts, teacher.tokenizer, teacher.longest(task.max_length), teacher.has_types)


def _save(logits: np.ndarray, path: Path) -> None:
    """Write logits as a contiguous float32 array, since safetensors stores an array's memory and ignores strides."""
    rows = np.ascontiguousarray(logits, dtype=np.float32)
    write_atomically(path, lambda draft: save_file({"logits": rows}, draft))


class _LogitsInParts:
    """Computes a model's logits in parts, and stores each part in a file. An interruption loses at most one part."""

    def __init__(self, model: PreTrainedModel, columns: Sequence[int], folder: Path) -> None:
        self._columns, self._folder = list(columns), folder
        self._processor = training_processor()
        nn.Module.to(model, self._processor)
        self._forward = forward_of(model, processor=self._processor)
        self._uses_bf16 = uses_bf16(model.config.hidden_size, self._processor)

    def stored(self, name: str, texts: Dataset) -> np.ndarray:
        """Return the logits of texts as an array of shape (texts, outputs), with outputs in the order of the labels.

        Parts that are already stored are read. All other parts are computed and stored.
        """
        starts = range(0, len(texts), _TEXTS_PER_PART)
        parts = [self._part_logits(name, start, texts) for start in tracked(starts, f"The teacher's logits: {name}")]
        return np.concatenate(parts)[:, self._columns]

    def _part_logits(self, name: str, start: int, texts: Dataset) -> np.ndarray:
        path = self._folder / f"{name}-{start}.safetensors"
        if not path.exists():
            logits = self._compute(texts.select(range(start, min(len(texts), start + _TEXTS_PER_PART))))
            _save(logits, path)
        return load_file(path)["logits"]

    def _compute(self, texts: Dataset) -> np.ndarray:
        batches = list(batches_by_length(texts))
        with side_by_side(self._batch_logits, batches, None if self._processor == "cpu" else 1) as results:
            return predict(lambda _: next(results), batches)

    def _batch_logits(self, batch: Any) -> np.ndarray:
        with torch.autocast(self._processor, dtype=torch.bfloat16, enabled=self._uses_bf16):
            return self._forward(batch)
