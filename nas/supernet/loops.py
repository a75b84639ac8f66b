"""The training loop of this package: settings, progress and checkpoints on top of transformers' Trainer.

`run_trainer` runs both the distillation in `training.py` and `FineTuning`, which trains a teacher on labels. If a
training run is started again in the same folder, it resumes from its last checkpoint. On processors that multiply bf16
numbers natively, networks that are wide enough to benefit are trained in bf16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback, is_tensorboard_available

from nas.data.batches import padding
from nas.errors import TrainingError
from nas.files import write_json
from nas.model.precision import training_processor, uses_bf16
from nas.progress import Tracker, track
from nas.supernet.checkpoints import SafeTrainer, all_finite, bind, last_complete, mark_complete
from nas.supernet.rates import HIGHEST_RATE
from nas.supernet.side_by_side import SideBySideTrainer
from nas.tasks import GROUP, REFERENCE

# By default, oneDNN caches the kernels for the last 1,024 shapes of matrix products, several megabytes each. In a
# training run whose shapes change at every step, the cache takes gigabytes, and hardly any kernel is used again. oneDNN
# reads the variable before its first product, so it is set here.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

LOG_FILE = "training.json"
_TENSORBOARD = "tensorboard"
_EVALUATION_SETTINGS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
    "restore_callback_states_from_checkpoint": True,
}
"""Additional settings of the Trainer for a training run whose accuracy is measured after each epoch."""

AccuracyOf = Callable[[PreTrainedModel], float]
"""A function that returns the accuracy of a network."""


@dataclass(frozen=True)
class Watchers:
    """Integrations and callbacks that observe a training run, in addition to nas's own output."""

    report_to: tuple[str, ...] = ()
    """Names of integrations in transformers, such as `wandb`. All of them except `tensorboard` must be installed."""
    callbacks: tuple[TrainerCallback, ...] = ()


NO_WATCHERS = Watchers()


@dataclass(frozen=True)
class Schedule:
    """The settings of a training run.

    If `steps` is positive, the run has this many steps. Otherwise it has `epochs` epochs.
    """

    learning_rate: float | None
    """The peak learning rate. If None, each network is distilled with its own `default_learning_rate`."""
    batch_size: int
    steps: int = -1
    epochs: float = 1.0
    checkpoint_steps: int = 200
    patience: int = 0
    """If positive, training stops after this many consecutive epochs without better accuracy, and the weights of the
    best epoch are restored at the end. If 0, training never stops early, and the accuracy is not measured.
    """
    watchers: Watchers = NO_WATCHERS


def training_arguments(config: PreTrainedConfig, folder: Path, schedule: Schedule, seed: int) -> TrainingArguments:
    """Return the Trainer's settings for a model with this configuration.

    Checkpoints are written to the subfolder `checkpoints` of `folder`.
    """
    processor, reports = training_processor(), schedule.watchers.report_to
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=schedule.steps,
        num_train_epochs=schedule.epochs,
        per_device_train_batch_size=schedule.batch_size,
        learning_rate=HIGHEST_RATE if schedule.learning_rate is None else schedule.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.06,
        weight_decay=0.01,
        optim="adamw_torch_fused",
        bf16=uses_bf16(config.hidden_size, processor),
        use_cpu=processor == "cpu",
        save_steps=schedule.checkpoint_steps,
        save_total_limit=2,
        **(_EVALUATION_SETTINGS if schedule.patience else {}),
        logging_steps=20,
        logging_nan_inf_filter=False,
        # `run_trainer` adds TensorBoard if it is installed, and gives it a folder.
        report_to=[name for name in reports if name != _TENSORBOARD] or "none",
        run_name=f"{folder.parent.name}/{folder.name}",
        seed=seed,
        dataloader_pin_memory=processor == "cuda",
        # `batch_size` counts the texts of all processes together.
        accelerator_config={"split_batches": True},
        disable_tqdm=True,
    )


class _ProgressAndCheckpoints(TrainerCallback):
    """A callback that shows the steps and the loss, requests checkpoints within epochs, and marks them as complete."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.stack = ExitStack()
        self.tracker: Tracker | None = None
        self.note = ""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            context: AbstractContextManager[Tracker] = track(self.title, state.max_steps, before=state.global_step)
            self.tracker = self.stack.enter_context(context)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # With patience, the Trainer itself saves only at the end of an epoch, after it has measured the accuracy.
        # Checkpoints within an epoch are requested here.
        ends_epoch = control.should_training_stop or float(state.epoch or 0.0).is_integer()
        control.should_save |= state.global_step % args.save_steps == 0 and not ends_epoch
        if self.tracker:
            self.tracker(state.global_step, self.note)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", kwargs["model"])

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is not None:
            self.note = f"loss {loss:.3f}"


@contextmanager
def _separate_wandb_run(watchers: Watchers) -> Iterator[None]:
    """Give each training stage its own run in Weights & Biases.

    The callback of Weights & Biases starts a run but never finishes it. This function therefore finishes the run at the
    end of the `with` block, unless the run was already active before the block.
    """
    if "wandb" not in watchers.report_to:
        yield
        return
    import wandb

    was_running = wandb.run is not None
    try:
        yield
    finally:
        if not was_running:
            wandb.finish()


def run_trainer(trainer: SafeTrainer, title: str, folder: Path, origin: dict[str, Any], watchers: Watchers) -> None:
    """Run a trainer to the end, and write its log to `training.json` in `folder`.

    Training resumes from the last checkpoint in `folder`, if there is one. If `watchers` includes TensorBoard and
    TensorBoard is installed, a TensorBoard log is written to the subfolder `tensorboard`.

    `origin` holds the inputs of the training run. Raises `TrainingError` if the checkpoints in `folder` were written
    with different inputs, or if some weights are not finite after the last step.
    """
    checkpoints = folder / "checkpoints"
    if trainer.is_world_process_zero():
        bind(checkpoints, origin)
    trainer.accelerator.wait_for_everyone()
    last_checkpoint = last_complete(checkpoints)
    progress = _ProgressAndCheckpoints(title)
    trainer.add_callback(progress)
    for watcher in watchers.callbacks:
        trainer.add_callback(watcher)
    if _TENSORBOARD in watchers.report_to and is_tensorboard_available():
        tensorboard = TensorBoardCallback()
        tensorboard.logging_dir = str(folder / "tensorboard")
        trainer.add_callback(tensorboard)
    with progress.stack, _separate_wandb_run(watchers):
        trainer.train(resume_from_checkpoint=str(last_checkpoint) if last_checkpoint else None)
    model = trainer.model
    assert model is not None
    if not all_finite(model):
        raise TrainingError(
            f"{checkpoints}: all weights must be finite after the last training step, but some are not; lower the "
            "learning_rate of this training, remove this folder and run the command again"
        )
    # bf16 is used only for training. Afterwards, the model is evaluated in the precision of its export.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if trainer.is_world_process_zero():
        write_json(folder / LOG_FILE, trainer.state.log_history)


class _EvaluatingTrainer(SideBySideTrainer):
    """A Trainer that calls `accuracy_of` to evaluate its model."""

    def __init__(self, *, model: PreTrainedModel, accuracy_of: AccuracyOf, **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        self._evaluated_model, self._accuracy_of = model, accuracy_of

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.all_threads():
            metrics = {"eval_accuracy": self._accuracy_of(self._evaluated_model)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


@dataclass(frozen=True)
class FineTuning:
    """All inputs to the training of a teacher on labels, except the teacher itself."""

    train: Dataset
    tokenizer: PreTrainedTokenizerBase
    schedule: Schedule
    folder: Path
    seed: int
    origin: dict[str, Any]
    """The inputs of this training run as JSON values. Checkpoints that were written with different inputs are refused.
    """
    accuracy_of: AccuracyOf | None = None
    """The function that measures the accuracy after each epoch, or None if the accuracy is not measured. Required if
    `schedule.patience` is above 0.
    """
    title: str = "Fine-tuning the teacher"
    labels_are_per_token: bool = False
    """Whether each token has a label. If false, each text has a label."""

    def tune(self, model: PreTrainedModel) -> None:
        """Train a teacher in place. Raises `TrainingError` under the same conditions as `run_trainer`."""
        model.set_attn_implementation("eager")  # the implementation whose dropout `SeededDropout` can seed
        settings: dict[str, Any] = {
            "model": model,
            "args": training_arguments(model.config, self.folder, self.schedule, self.seed),
            "train_dataset": self.train,
            "data_collator": padding(self.tokenizer, self.labels_are_per_token),
            "processing_class": self.tokenizer,
        }
        if self.accuracy_of:
            callbacks = [EarlyStoppingCallback(self.schedule.patience)]
            # The Trainer requires an `eval_dataset`, although `accuracy_of` uses its own.
            settings |= {"accuracy_of": self.accuracy_of, "callbacks": callbacks, "eval_dataset": self.train}
        trainer = (_EvaluatingTrainer if self.accuracy_of else SideBySideTrainer)(**settings)
        run_trainer(trainer, self.title, self.folder, self.origin, self.schedule.watchers)


def labelled_batches(
    train: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    batch_size: int,
    seed: int,
    labels_are_per_token: bool,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield up to `count` padded batches of random training rows with their labels.

    If `labels_are_per_token` is true, each token has a label. Otherwise, each text has a label.
    """
    other_columns = [name for name in ("length", GROUP, REFERENCE) if name in train.column_names]
    rows = train.remove_columns(other_columns).shuffle(seed=seed, keep_in_memory=True)
    collate = padding(tokenizer, labels_are_per_token)
    for number in range(min(count, -(-len(rows) // batch_size))):
        part = rows[number * batch_size : (number + 1) * batch_size]
        yield dict(collate([dict(zip(part, values, strict=True)) for values in zip(*part.values(), strict=True)]))
