"""Checks a study's teacher before the weights are loaded, and loads its classifier.

"Teacher" here means the model to compress. If the study has a `[student]`, this is the student's checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nas.compression import compression
from nas.data import TaskData
from nas.data.truth import as_array
from nas.errors import SearchSpaceError, TeacherError, counted
from nas.model import CompactBertConfig
from nas.model.checkpoint import Checkpoint, wrapper_remedy
from nas.model.modeling import AUTO_MODELS
from nas.model.projection import read_projection
from nas.model.stock import compact_config, shape_of
from nas.model.teacher_config import read_config
from nas.model.tokenizer import check_tokenizer, load_tokenizer, lower_case
from nas.pipeline.error_names import student_named
from nas.progress import say
from nas.study import Study
from nas.supernet.scale import last_linear
from nas.tasks import Head, Problem, task_kind
from nas.tasks.kind import problem_of


@dataclass(frozen=True)
class Teacher:
    """A teacher that fits a study. Its weights are not loaded."""

    source: str
    """The teacher's folder."""
    config: PreTrainedConfig
    compact: CompactBertConfig
    tokenizer: PreTrainedTokenizerBase
    checkpoint: Checkpoint | None
    """The checkpoint that contains the weights; None if the weights were not checked."""

    def head(self, study: Study) -> Head | None:
        """Return a description of the teacher's classifier; None if the model was saved without a classifier."""
        if self.checkpoint:
            has_head = self.checkpoint.labels is not None
        else:
            class_suffix = AUTO_MODELS[task_kind(study.task.kind).network_form.network_type][0].removeprefix(
                "AutoModel"
            )
            has_head = any(name.endswith(class_suffix) for name in self.config.architectures or [class_suffix])
        names = tuple(str(name) for _, name in sorted((self.config.id2label or {}).items()))
        return Head(self.source, names, is_retrained=study.compressed.fine_tune is not None) if has_head else None


def check_shape(study: Study, source: str, config: PreTrainedConfig) -> CompactBertConfig:
    """Return the `CompactBert` configuration of a teacher. Raise a `NasError` if the teacher does not fit the study."""
    with student_named(study):
        study.check_teacher(shape_of(config))
        compact = compact_config(config, study.task.variant.form(source))
    if study.space.dimensions.keep_tokens and compact.knows_distances:
        raise SearchSpaceError(
            f"search_space: {study.space.name!r} drops tokens (keep_tokens), but attention in {config.model_type} "
            "models depends on the distances between tokens, which would then change; use a space without keep_tokens"
        )
    for name in study.space.compression.embedding:
        if not compression(name).suits(compact.vocab_size, compact.embedding_width):
            raise SearchSpaceError(
                f"search_space: {name!r} cannot compress the teacher's token embeddings ({compact.vocab_size:,} by "
                f"{compact.embedding_width}), or would not make them smaller; add {name!r} to "
                "search_space.exclude_compression"
            )
    lengths = {"task.max_length": study.task.max_length}
    fixed_length_devices = (device for device in study.devices if device.sequence_length != "task")
    lengths |= {f"devices.{device.name}.sequence_length": max(device.lengths) for device in fixed_length_devices}
    for key, length in lengths.items():
        if length > compact.max_position_embeddings:
            raise TeacherError(
                f"{key}: must be at most the teacher's number of positions, {compact.max_position_embeddings}, but "
                f"got {length}; lower {key}"
            )
    most_tokens = task_kind(study.task.kind).most_tokens(source)
    if most_tokens is not None and study.task.max_length > most_tokens:
        raise TeacherError(
            f"task.max_length: must be at most {most_tokens}, the number of tokens to which sentence-transformers "
            f"truncates texts for this teacher (its max_seq_length), but got {study.task.max_length}; "
            "lower task.max_length"
        )
    return compact


def check_teacher(study: Study, source: str, weights: bool = True) -> Teacher:
    """Return the teacher in a folder, without loading its weights.

    Raises a `NasError` if the configuration, the tokenizer or the weights cannot be read, or do not fit the study. The
    weights are checked only if `weights` is set.
    """
    with student_named(study):
        config = read_config(source)
        compact = check_shape(study, source, config)
        checkpoint = None
        if weights:
            checkpoint = Checkpoint.of(source, config, task_kind(study.task.kind).network_form.network_type)
            if checkpoint.is_encoder:
                read_projection(Path(source), compact.hidden_size)  # raises `TeacherError` if its weights do not fit
            elif study.compressed.fine_tune is None:
                _check_head(study, config, checkpoint)
        kind = task_kind(study.task.kind)
        tokenizer = load_tokenizer(source, config, kind.has_words)
        if kind.lowers_case(source):
            lower_case(tokenizer)
        check_tokenizer(tokenizer, source, config)
    return Teacher(source, config, compact, tokenizer, checkpoint)


def _check_head(study: Study, config: PreTrainedConfig, checkpoint: Checkpoint) -> None:
    """Raise `TeacherError` unless the checkpoint has a head for the study's kind of task.

    If the configuration does not name its labels, its number of labels is set to the classifier's number of outputs.
    """
    labels, message_start = checkpoint.labels, f"teacher.model: {checkpoint.source}"
    unnamed = all(name == f"LABEL_{number}" for number, name in (config.id2label or {}).items())
    if labels and unnamed:
        config.num_labels = labels
    if labels and labels != config.num_labels:
        raise TeacherError(
            f"{message_start}: config.json: id2label names {counted(config.num_labels or 0, 'label')}, but the "
            f"classifier has {counted(labels, 'output')}; correct id2label, or set teacher.fine_tune"
        )
    if checkpoint.new and labels:  # the number of labels may have changed
        checkpoint = Checkpoint.of(checkpoint.source, config, checkpoint.network_type)
    if missing := [name for name in checkpoint.new if name not in checkpoint.tensors]:
        raise TeacherError(
            f"{message_start} has no {missing[0]}: it is not a fine-tuned classifier; "
            f"{wrapper_remedy(checkpoint.tensors) or 'give a fine-tuned model, or set teacher.fine_tune'}"
        )
    if checkpoint.new:
        name = checkpoint.new[0]
        raise TeacherError(
            f"{message_start}: {name} has the shape {list(checkpoint.tensors[name].shape)}, but config.json requires "
            f"{list(checkpoint.shapes[name])}, so the classifier cannot be loaded; give a complete checkpoint, or set "
            "teacher.fine_tune"
        )
    check_kind(study, checkpoint.source, config, labels)


def check_kind(study: Study, source: str, config: PreTrainedConfig, labels: int | None) -> None:
    """Raise `TeacherError` if a fine-tuned classifier with `labels` labels does not suit the study's kind of task."""
    kind = task_kind(study.task.kind)
    if not kind.accepts(config.problem_type, labels):
        raise TeacherError(
            f"teacher.model: {source}: config.json: problem_type is {problem_of(config.problem_type, labels)} with "
            f"{counted(labels or 0, 'label')}, but a task of kind {kind.name!r} needs {kind.teacher_requirement}; give "
            "a teacher fine-tuned for such a task, or set teacher.fine_tune"
        )


def load_classifier(study: Study, source: str, data: TaskData) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the teacher, in float32, and its tokenizer. If the teacher lacks a suitable head, add one for fine-tuning.

    Raises the same errors as `check_teacher`. If the study does not fine-tune the teacher, also raises `TeacherError`
    if the teacher and the data have different numbers of labels.
    """
    teacher = check_teacher(study, source)
    config, kind = teacher.config, task_kind(study.task.kind)
    if teacher.checkpoint and teacher.checkpoint.is_encoder:
        return teacher.checkpoint.load(config), teacher.tokenizer
    if study.compressed.fine_tune:
        names = kind.output_names(data.label_names)
        config.id2label, config.label2id = names, {name: number for number, name in names.items()}
    elif config.num_labels != data.num_labels:
        raise TeacherError(
            f"teacher.model: {source} has {counted(config.num_labels or 0, 'label')}, but the task has "
            f"{data.num_labels}; give a teacher fine-tuned for this task, or set teacher.fine_tune"
        )
    checkpoint = Checkpoint.of(source, config, kind.network_form.network_type)
    _report_replaced_head(study.compressed_table.capitalize(), checkpoint, config, kind.problem_type)
    config.problem_type = kind.problem_type
    model = checkpoint.load(config)
    if checkpoint.classifier in checkpoint.new:
        bias = kind.first_bias(as_array(data.train["labels"][:]), data.num_labels)
        if bias is not None:
            with torch.no_grad():
                last_linear(model).bias.copy_(torch.from_numpy(bias))
    return model, teacher.tokenizer


def _report_replaced_head(role: str, checkpoint: Checkpoint, config: PreTrainedConfig, needed: Problem) -> None:
    """Tell the user which parts of the checkpoint's classification head are replaced, if the checkpoint has a head.

    `role` is the name of the model in messages: `Teacher` or `Student`.
    """
    labels = checkpoint.labels
    if checkpoint.new and labels is not None and labels != config.num_labels:
        say(
            f"{role}: its classifier has {counted(labels, 'label')}, but the task has {config.num_labels}; a new "
            "classifier is trained"
        )
    elif checkpoint.new and labels:
        say(
            f"{role}: its classifier is incomplete; these weights are trained from scratch: {', '.join(checkpoint.new)}"
        )
    if config.problem_type not in (None, needed):
        say(f"{role}: its problem_type is changed from {config.problem_type} to {needed}, which the task needs")
