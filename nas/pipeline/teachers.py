"""Makes the run's teacher, fine-tuned if the study asks for it, and loads it from the run's folder.

"Teacher" here means the model to compress. If the study has a `[student]`, this model is the student's
checkpoint, and `separate_teacher.py` computes the outputs from which the student learns.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig

from nas.data import TaskData, truth_of
from nas.data.truth import first_rows
from nas.errors import TeacherError
from nas.evaluate.accuracy import logits_of
from nas.export.sentences import SentenceEncoder, write_sentence_modules
from nas.files import read_json, write_json
from nas.model import CompactBert, CompactBertConfig
from nas.model.projection import read_projection
from nas.model.stock import AUTO_CLASSES, compact_config, from_stock, shape_of
from nas.model.teacher_config import teacher_settings
from nas.model.tokenizer import load_tokenizer
from nas.pipeline.data import KEPT_TOKENS_FILE, TOKENIZER_FOLDER, splits
from nas.pipeline.fine_tuning import EVALUATED_TEXTS, FineTuningContext, fine_tune
from nas.pipeline.run import Run, once
from nas.pipeline.snapshots import commit, errors_with_hub_ids
from nas.pipeline.sources import TEACHER_VERSION, teacher_folder, teacher_inputs
from nas.pipeline.teacher_checks import load_classifier
from nas.pipeline.watching import watchers_of
from nas.progress import Stopwatch, busy, say
from nas.study import Study
from nas.supernet.scale import STANDARD, Scale
from nas.tasks import task_kind
from nas.vocabulary import prune_embeddings

_SOURCE_FILE = "source.json"
"""The file that records the model and commit of the run's teacher, and the mean and deviation of its outputs."""


@errors_with_hub_ids
def make_teacher(run: Run, stopwatch: Stopwatch) -> None:
    """Load the teacher, fine-tune it if the study asks for fine-tuning, and save it in the run's folder."""
    study, data, source = run.study, splits(run), teacher_folder(run)
    torch.manual_seed(study.seed)
    model, tokenizer = load_classifier(study, source, data)
    if study.compressed.prune_vocabulary:
        tokenizer = load_tokenizer(run.data / TOKENIZER_FOLDER)
        prune_embeddings(model, read_json(run.data / KEPT_TOKENS_FILE, TeacherError), tokenizer.pad_token_id)
    if study.compressed.fine_tune:
        origin = {"form": TEACHER_VERSION, "teacher": teacher_inputs(run)}
        title = f"Fine-tuning the {study.compressed_table}"
        context = FineTuningContext(run.teacher, origin, title, watchers_of(run))
        fine_tune(study, study.compressed.fine_tune, model, tokenizer, data, context)
    model.save_pretrained(run.teacher)
    form, network = study.task.variant.form(source), cast(nn.Module, model)
    if form.network_type == "encoder":
        hidden_size = shape_of(model.config).hidden_size
        write_sentence_modules(run.teacher, form, hidden_size, read_projection(Path(source), hidden_size))
        network = SentenceEncoder(model, run.teacher)
    tokenizer.model_max_length = study.task.max_length  # exports cut texts to the length at which accuracy is measured
    tokenizer.save_pretrained(run.teacher)
    output_scale, is_fine_tuned = _report_accuracy(network, data, study), study.compressed.fine_tune is not None
    facts: dict[str, Any] = {
        "model": study.compressed.model,
        "commit": commit(run, "model"),
        "fine_tuned_here": is_fine_tuned,
    }
    facts["served_as"] = task_kind(study.task.kind).served_as(teacher_settings(source), is_fine_tuned)
    write_json(run.teacher / _SOURCE_FILE, facts | {"outputs": asdict(output_scale)})


def served_as(run: Run) -> dict[str, Any]:
    """Return the entries of an export's `config.json` that describe how to turn the network's outputs into answers."""
    stored = read_json(run.teacher / _SOURCE_FILE, TeacherError).get("served_as")  # absent in older runs
    entries: dict[str, Any] = stored or task_kind(run.study.task.kind).served_as({}, False)
    return entries


def scale_of(run: Run) -> Scale:
    """Return the mean and standard deviation of the teacher's output; 0 and 1 if the task has several outputs."""
    return Scale(**read_json(run.teacher / _SOURCE_FILE, TeacherError)["outputs"])


def _report_accuracy(model: nn.Module, data: TaskData, study: Study) -> Scale:
    """Print the teacher's accuracy on part of the search set. Warn if a constant answer is at least as accurate.

    Return the mean and standard deviation of the teacher's output; 0 and 1 if the task has several outputs.
    """
    kind = task_kind(study.task.kind)
    metric = kind.metric(study.task, data.label_names)
    texts = first_rows(data.search, EVALUATED_TEXTS)
    with busy(f"Evaluating the {study.compressed_table}"):
        logits, labels = logits_of(model, texts), truth_of(texts)
    accuracy = metric.score(logits, labels)
    constant_logits = metric.constant_answer(labels, logits.shape[1])
    constant_accuracy = 0.0 if constant_logits is None else metric.score(constant_logits, labels)
    role = study.compressed_table.capitalize()
    say(f"{role}: {metric.label} {accuracy:.3f} on {metric.describe_size(labels)} of the search set")
    if accuracy <= constant_accuracy:
        table = study.compressed_table
        remedy = (
            f"give a different {table}, or other settings in {table}.fine_tune"
            if study.compressed.fine_tune
            else f"give a different {table}, number the labels of the data in the same way as this {table}, or set "
            f"{table}.fine_tune"
        )
        say(
            f"Warning: the {table} does not score higher than a baseline that gives every text the same answer "
            f"({constant_accuracy:.3f}); {remedy}"
        )
    if not kind.has_one_output:
        return STANDARD
    output_scale = Scale.of(logits[:, 0])
    if study.compressed.fine_tune or not kind.predicts_numbers:
        return output_scale
    label_scale = Scale.of(labels)
    is_shifted = abs(output_scale.mean - label_scale.mean) > 2 * label_scale.deviation
    if is_shifted or not 0.2 < output_scale.deviation / label_scale.deviation < 5.0:
        say(
            f"Note: the teacher's outputs ({output_scale.mean:.4g} ± {output_scale.deviation:.2g}) are on a different "
            f"scale from the labels ({label_scale.mean:.4g} ± {label_scale.deviation:.2g}); the outputs of exports "
            "will be on the teacher's scale"
        )
    return output_scale


def load_teacher(run: Run) -> CompactBert:
    """Load the run's teacher, after any fine-tuning, as a `CompactBert`."""
    form = run.study.task.variant.form(str(run.teacher))
    model = AUTO_CLASSES[form.network_type].from_pretrained(run.teacher)
    has_projection = form.projection_dim is not None
    return from_stock(model, form, read_projection(run.teacher, model.config.hidden_size) if has_projection else None)


@once
def teacher_config(run: Run) -> CompactBertConfig:
    """Return the `CompactBert` configuration of the run's teacher."""
    form = run.study.task.variant.form(str(run.teacher))
    return compact_config(AutoConfig.from_pretrained(run.teacher), form)
