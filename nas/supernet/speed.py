"""Measurement of the time per training step on this machine. A few steps are run, and their result is discarded.

The pipeline calls `seconds_per_step` through `Distillation.time_supernet` and `Distillation.time_cohort` to plan a
study with a time limit.
"""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from nas.supernet.checkpoints import SafeTrainer


class _Clock(TrainerCallback):
    """A callback that records the time at which each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def seconds_per_step(trainer: SafeTrainer, warm_up: int) -> float:
    """Run a trainer, and return the mean number of seconds per step after the first `warm_up` steps.

    The batches cover all text lengths of an epoch, as in a longer training run. The steps change the trainer's model,
    so discard the model after this call.
    """
    steps = trainer.args.max_steps
    trainer.args.save_strategy = "no"  # type: ignore[assignment]
    trainer.spread(warm_up, steps - warm_up)
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.train()
    return (clock.ends[-1] - clock.ends[warm_up - 1]) / (steps - warm_up)
