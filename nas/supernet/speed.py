"""How long a step of a training takes on this machine: found by training for a few steps, which are thrown away."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from nas.supernet.checkpoints import SafeTrainer


class _Clock(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def seconds_per_step(trainer: SafeTrainer, warm_up: int) -> float:
    """The mean seconds of a step of a trainer, without its first ones; its model is of no further use.

    Its batches are of all lengths that an epoch has, as a training soon meets them.
    """
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    steps = trainer.args.max_steps
    trainer.args.save_strategy = "no"  # type: ignore[assignment]
    trainer.spread(warm_up, steps - warm_up)
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.train()
    return (clock.ends[-1] - clock.ends[warm_up - 1]) / (steps - warm_up)
