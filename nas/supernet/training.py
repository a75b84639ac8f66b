"""Training loops, all on transformers' Trainer: the teacher's fine-tuning, the supernet, a single sub-network.

Every loop resumes from its last checkpoint when it is started again in the same folder, and uses bf16 where the
processor multiplies it natively.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from nas.errors import TrainingError
from nas.files import write_json
from nas.model import CompactBertForSequenceClassification
from nas.progress import Tracker, track
from nas.space import Architecture, SearchSpace
from nas.supernet.distillation import distillation_loss
from nas.supernet.supernet import BertSupernet

LOG_FILE = "training.json"
_COMPLETE = "complete"
_LEAST_BF16_WIDTH = 256


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `steps` if given, else `epochs`."""

    learning_rate: float
    batch_size: int
    steps: int = -1
    epochs: float = 1.0
    checkpoint_steps: int = 200


def native_bf16() -> bool:
    """Whether this processor (or GPU) multiplies bf16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in supported)


def _uses_bf16(model: PreTrainedModel) -> bool:
    """bf16 where it pays: the casts of narrow layers cost more than their products gain."""
    return native_bf16() and bool(model.config.hidden_size >= _LEAST_BF16_WIDTH)


def _arguments(model: PreTrainedModel, folder: Path, schedule: Schedule, seed: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=schedule.steps,
        num_train_epochs=schedule.epochs,
        per_device_train_batch_size=schedule.batch_size,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.06,
        weight_decay=0.01,
        optim="adamw_torch_fused",
        bf16=_uses_bf16(model),
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="group_by_length",
        save_steps=schedule.checkpoint_steps,
        save_total_limit=2,
        logging_steps=20,
        logging_nan_inf_filter=False,
        report_to="none",
        seed=seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
    )


class _Watch(TrainerCallback):
    """Shows steps and loss, marks checkpoints as complete, and stops at a loss that is not a number."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.stack = ExitStack()
        self.tracker: Tracker | None = None
        self.note = ""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        context: AbstractContextManager[Tracker] = track(self.title, state.max_steps)
        self.tracker = self.stack.enter_context(context)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.tracker:
            self.tracker(state.global_step, self.note)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):  # a checkpoint is written after the log, so none holds what led here
            raise TrainingError(
                f"{self.title}: the loss must be a number, but is {loss} at step {state.global_step}; lower the "
                "learning_rate and run the command again"
            )
        self.note = f"loss {loss:.3f}"


def _last_complete(checkpoints: Path) -> Path | None:
    """The latest checkpoint that was written to its end; what a kill left half-written is removed."""
    last = None
    for folder in sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        if (folder / _COMPLETE).exists():
            last = folder
        else:
            shutil.rmtree(folder)
    return last


def _train(trainer: Trainer, title: str, folder: Path) -> None:
    """Run a trainer to its end, from its last checkpoint if there is one, and keep its log."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    last = _last_complete(folder / "checkpoints")
    watch = _Watch(title)
    trainer.add_callback(watch)
    with watch.stack:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    write_json(folder / LOG_FILE, trainer.state.log_history)


def fine_tune(
    model: PreTrainedModel,
    train: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    schedule: Schedule,
    folder: Path,
    seed: int,
    title: str,
) -> None:
    """Train a classifier on labels, in place."""
    trainer = Trainer(
        model=model,
        args=_arguments(model, folder, schedule, seed),
        train_dataset=train,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    _train(trainer, title, folder)


class DistillationTrainer(Trainer):
    """A Trainer whose step distils the teacher into the sub-networks that `architectures` names for it.

    `run` computes a sub-network's output on the trained weights.
    """

    def __init__(
        self,
        *,
        teacher: CompactBertForSequenceClassification,
        architectures: Callable[[int], list[Architecture]],
        run: Callable[..., SequenceClassifierOutput],
        hidden_weight: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.teacher = teacher.eval().requires_grad_(False)
        nn.Module.to(self.teacher, self.args.device)
        self.architectures = architectures
        self.hidden_weight = hidden_weight
        self.run = run

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One gradient from all of the step's sub-networks; returns their mean loss."""
        inputs = self._prepare_inputs(inputs)
        inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            target = self.teacher(**inputs, output_hidden_states=True)
        architectures = self.architectures(self.state.global_step)
        total = torch.zeros((), device=self.args.device)
        for architecture in architectures:
            with self.compute_loss_context_manager():
                student = self.run(architecture, **inputs, output_hidden_states=True)
                loss = distillation_loss(
                    student, target, architecture, inputs["attention_mask"], self.hidden_weight
                ) / len(architectures)
            self.accelerator.backward(loss)
            total += loss.detach()
        return total


def sandwich(space: SearchSpace, random_subnets: int, seed: int) -> Callable[[int], list[Architecture]]:
    """The sandwich rule (Yu and Huang, arXiv:1903.05134): the largest, the smallest and random ones.

    What a step trains depends on the seed and the step's number alone, so that a resumed run goes on alike.
    """

    def at(step: int) -> list[Architecture]:
        rng = random.Random(f"{seed}/{step}")
        return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(random_subnets))]

    return at


@dataclass(frozen=True)
class Distillation:
    """What a training by distillation needs besides the student."""

    teacher: CompactBertForSequenceClassification
    train: Dataset
    tokenizer: PreTrainedTokenizerBase
    schedule: Schedule
    hidden_weight: float
    folder: Path
    seed: int

    def train_supernet(
        self, weights: CompactBertForSequenceClassification, space: SearchSpace, random_subnets: int
    ) -> None:
        """Train all sub-networks of a space at once, in place."""
        at_step = sandwich(space, random_subnets, self.seed)
        self._train(weights, at_step, BertSupernet(weights).run, "Training the supernet")

    def train_subnetwork(self, model: CompactBertForSequenceClassification, title: str) -> None:
        """Train one extracted sub-network, in place, without dropout as in the supernet."""
        architecture = model.config.architecture

        def run(_: Architecture, **inputs: Any) -> SequenceClassifierOutput:
            output: SequenceClassifierOutput = model.eval()(**inputs)
            return output

        self._train(model, lambda step: [architecture], run, title)

    def _train(
        self,
        student: CompactBertForSequenceClassification,
        architectures: Callable[[int], list[Architecture]],
        run: Callable[..., SequenceClassifierOutput],
        title: str,
    ) -> None:
        trainer = DistillationTrainer(
            teacher=self.teacher,
            architectures=architectures,
            run=run,
            hidden_weight=self.hidden_weight,
            model=student,
            args=_arguments(student, self.folder, self.schedule, self.seed),
            train_dataset=self.train,
            data_collator=DataCollatorWithPadding(self.tokenizer),
            processing_class=self.tokenizer,
        )
        _train(trainer, title, self.folder)
        student.cpu().eval()


def labelled_batches(
    train: Dataset, tokenizer: PreTrainedTokenizerBase, count: int, batch_size: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Random padded training batches with labels."""
    rows = train.remove_columns("length").shuffle(seed=seed, keep_in_memory=True)
    collate = DataCollatorWithPadding(tokenizer)
    for number in range(min(count, -(-len(rows) // batch_size))):
        part = rows[number * batch_size : (number + 1) * batch_size]
        yield dict(collate([dict(zip(part, values, strict=True)) for values in zip(*part.values(), strict=True)]))


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
