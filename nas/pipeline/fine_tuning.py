"""Fine-tunes a model that has not yet been trained for the task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nas.data import TaskData, truth_of
from nas.data.truth import first_rows
from nas.evaluate.accuracy import logits_of
from nas.study import FineTuningSettings, Study
from nas.supernet.loops import NO_WATCHERS, AccuracyOf, FineTuning, Schedule, Watchers
from nas.supernet.scale import STANDARD, Scale, last_linear
from nas.tasks import task_kind

EVALUATED_TEXTS = 1000
"""The teacher's accuracy is measured on this many texts, or groups of texts, of the search set."""
_PATIENCE = 3
"""If the study sets no number of epochs, fine-tuning stops if this many epochs in a row do not improve the accuracy
on the search set."""


@dataclass(frozen=True)
class FineTuningContext:
    """The checkpoint folder of a fine-tuning run, an identifier of its inputs, and the receivers of its progress."""

    folder: Path
    origin: dict[str, Any]
    """JSON values that identify the inputs of the fine-tuning. Checkpoints with a different `origin` are refused."""
    title: str = "Fine-tuning the teacher"
    watchers: Watchers = NO_WATCHERS


def fine_tune(
    study: Study,
    settings: FineTuningSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    context: FineTuningContext,
) -> None:
    """Fine-tune a model in place.

    If the labels are numbers, they are standardised for training. After training, the last layer is rescaled, so that
    the model's outputs are on the original scale of the labels.
    """
    train, scale = data.train, STANDARD
    if task_kind(study.task.kind).predicts_numbers:
        scale = Scale.of(train["labels"])
        evaluated_rows = first_rows(train, EVALUATED_TEXTS)
        Scale.to_remove(logits_of(model, evaluated_rows)[:, 0], evaluated_rows["labels"]).remove_from(
            last_linear(model)
        )
        targets = scale.standardised(train["labels"])
        train = train.remove_columns("labels").add_column("labels", targets)
    accuracy_of, patience = (None, 0) if settings.epochs else (_accuracy_function(study, data, scale), _PATIENCE)
    epochs = settings.epochs_on(len(train))
    schedule = Schedule(
        settings.learning_rate, settings.batch_size, epochs=epochs, patience=patience, watchers=context.watchers
    )
    labels_are_per_token = task_kind(study.task.kind).has_words
    training = FineTuning(
        train,
        tokenizer,
        schedule,
        context.folder,
        study.seed,
        context.origin,
        accuracy_of,
        context.title,
        labels_are_per_token,
    )
    training.tune(model)
    scale.restore_in(last_linear(model))


def _accuracy_function(study: Study, data: TaskData, scale: Scale) -> AccuracyOf:
    """Return a function that measures a model's accuracy on part of the search set, which is not used for training.

    During training, the model's outputs are standardised. They are converted to `scale`, the scale of the labels,
    before they are compared with the labels.
    """
    metric = task_kind(study.task.kind).metric(study.task, data.label_names)
    texts = first_rows(data.search, EVALUATED_TEXTS)
    labels = truth_of(texts)

    def accuracy_of(model: PreTrainedModel) -> float:
        with scale.restored_in(last_linear(model)):
            return metric.score(logits_of(model, texts), labels)

    return accuracy_of
