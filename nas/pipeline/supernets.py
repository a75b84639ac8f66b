"""The step that makes the supernet: teacher, ordering by importance, training."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from nas.data import TaskData
from nas.files import digest, write_folder
from nas.model import CompactBertConfig, CompactBertForSequenceClassification
from nas.model.stock import compact_config, from_stock
from nas.pipeline.prepare import load_tokenizer, prepare_teacher, teacher_inputs
from nas.pipeline.run import Run
from nas.progress import say
from nas.supernet import BertSupernet
from nas.supernet.importance import measure_importance, reorder
from nas.supernet.training import Distillation, Schedule, drop_checkpoints, labelled_batches


def supernet_inputs(run: Run) -> str:
    """What the supernet's weights are made from."""
    return digest([teacher_inputs(run), run.study.space.digest, run.study.digest("supernet")])


def train(run: Run) -> None:
    """The supernet: data, teacher, ordering by importance, training."""
    data = prepare_teacher(run)
    inputs = supernet_inputs(run)
    if run.is_done("supernet", inputs):
        return
    settings = run.study.supernet
    schedule = Schedule(
        settings.learning_rate, settings.batch_size, steps=settings.steps, checkpoint_steps=settings.checkpoint_steps
    )
    with run.step("supernet", inputs, run.supernet):
        torch.manual_seed(run.study.seed)
        if not run.ordered_teacher.exists():
            _order(run, data)
        weights = CompactBertForSequenceClassification.from_pretrained(run.ordered_teacher)
        training = distillation(run, data, schedule, run.supernet)
        training.train_supernet(weights, run.study.space, settings.random_subnets)
        weights.save_pretrained(run.supernet)
    drop_checkpoints(run.supernet)


def distillation(run: Run, data: TaskData, schedule: Schedule, folder: Path) -> Distillation:
    """Training by distillation from the run's ordered teacher, with checkpoints in `folder`."""
    return Distillation(
        teacher=CompactBertForSequenceClassification.from_pretrained(run.ordered_teacher),
        train=data.train,
        tokenizer=load_tokenizer(run.teacher),
        schedule=schedule,
        hidden_weight=run.study.supernet.hidden_weight,
        folder=folder,
        seed=run.study.seed,
    )


def load_teacher(run: Run) -> CompactBertForSequenceClassification:
    """The fine-tuned teacher as a `CompactBert`."""
    return from_stock(AutoModelForSequenceClassification.from_pretrained(run.teacher))


def teacher_config(run: Run) -> CompactBertConfig:
    """The teacher's configuration as a `CompactBert`."""
    return compact_config(AutoConfig.from_pretrained(run.teacher))


def load_supernet(run: Run) -> BertSupernet:
    """The trained supernet."""
    return BertSupernet(CompactBertForSequenceClassification.from_pretrained(run.supernet).eval())


def _order(run: Run, data: TaskData) -> None:
    say("Ordering heads, neurons and hidden units by importance")
    settings, ordered = run.study.supernet, load_teacher(run)
    batches = labelled_batches(
        data.train, load_tokenizer(run.teacher), settings.importance_batches, settings.batch_size, run.study.seed
    )
    reorder(ordered, measure_importance(ordered, batches))
    write_folder(run.ordered_teacher, ordered.save_pretrained)
