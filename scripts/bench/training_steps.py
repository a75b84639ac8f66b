"""Trainers that fine-tune the teacher or train the supernet on a study's data, and functions that time their steps."""

from __future__ import annotations

import time
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
)

from nas.data import TaskData
from nas.model.stock import from_stock
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.commands import prepare_data
from nas.pipeline.sources import teacher_source
from nas.pipeline.supernets import loss_weights
from nas.supernet import SupernetWeights
from nas.supernet.loops import Schedule, training_arguments
from nas.supernet.sampling import sandwich
from nas.supernet.side_by_side import SideBySideTrainer
from nas.supernet.training import DistillationTrainer, of_one
from nas.tasks import task_kind


class Steps:
    """A factory of trainers. They all start from the same weights and run `steps` steps on the same batches.

    If `tokens` is given, the training texts are joined and divided into texts of that many tokens.
    """

    def __init__(self, run: Run, steps: int, random_subnets: int, folder: Path, tokens: int | None = None) -> None:
        self.run = run
        self.data: TaskData = prepare_data(run)
        self.train = self.data.train
        if tokens:
            self.train = _texts_of_length(self.train, tokens, steps * run.study.supernet.batch_size)
        self.source = teacher_source(run)
        self.random_subnets = random_subnets
        self.folder = folder
        self.schedule = Schedule(1e-6, run.study.supernet.batch_size, steps=steps)

    def teacher(self) -> PreTrainedModel:
        """Return the teacher with a new classifier. Its initial weights are the same in each call."""
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(self.source, num_labels=self.data.num_labels)

    def _trainer_arguments(self, model: PreTrainedModel) -> dict[str, Any]:
        arguments = training_arguments(model.config, self.folder, self.schedule, self.run.study.seed)
        arguments.save_strategy, arguments.logging_steps = "no", min(20, self.schedule.steps)
        collator = DataCollatorWithPadding(load_tokenizer(self.source))
        return {"args": arguments, "train_dataset": self.train, "data_collator": collator}

    def fine_tuning(self) -> Trainer:
        """Return a trainer that fine-tunes the transformers model of the teacher on labels, with dropout."""
        model = self.teacher()
        return SideBySideTrainer(model=model, **self._trainer_arguments(model))

    def lean(self) -> Trainer:
        """Return a trainer that fine-tunes the teacher without dropout and with frozen token embeddings."""
        model = self.teacher()
        model.get_input_embeddings().requires_grad_(False)
        for module in model.modules():
            for name in ("p", "dropout_prob", "attention_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        return SideBySideTrainer(model=model, **self._trainer_arguments(model))

    def supernet(self) -> Trainer:
        """Return a trainer of the supernet.

        Each step consists of the teacher's forward pass, and of forward and backward passes of several sub-networks.
        These are the largest one, the smallest one and `random_subnets` random ones.
        """
        study, settings, teacher = self.run.study, self.run.study.supernet, self.teacher()
        weights = SupernetWeights.of(from_stock(teacher), study.space.dimensions.hidden_size)
        weights.bert.embeddings.word_embeddings.requires_grad_(settings.train_embeddings)
        return DistillationTrainer(
            model=weights,
            teacher=from_stock(teacher),
            students=of_one(sandwich(study.space, self.random_subnets, "spread", study.seed)),
            losses=loss_weights(self.run),
            kind=task_kind(study.task.kind),
            **self._trainer_arguments(teacher) | {"train_dataset": self.train.remove_columns("labels")},
        )


def _texts_of_length(train: Dataset, tokens: int, count: int) -> Dataset:
    """Return `count` texts of exactly `tokens` tokens, which are pieces of the joined texts of `train`.

    Each text keeps the label of one row. The rows of `train` are repeated if they have too few tokens for all texts.
    """
    joined = np.resize(np.fromiter(chain.from_iterable(train["input_ids"]), int), (count, tokens))
    labels = [label for label, _ in zip(cycle(train["labels"]), range(count), strict=False)]
    return Dataset.from_dict({"input_ids": list(joined), "labels": labels, "length": [tokens] * count})


class _Clock(TrainerCallback):
    """A callback that records when the first step begins and when the last one ends."""

    began = ended = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = self.began or time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


def timed(trainer: Trainer) -> float:
    """Run the trainer to the end and return the seconds per step."""
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.train()
    return (clock.ended - clock.began) / trainer.state.global_step


def losses(trainer: Trainer) -> list[float]:
    """Return the losses that a completed training run has logged."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
