"""Measure a training step with one thread, with all threads, and with all threads alongside one busy process.

Steps of the teacher's fine-tuning and of the supernet are measured inside the Trainer, interleaved, on the same batches
of the study's texts. Prints the seconds per step (median over rounds of the mean over steps), the speed-up of all
threads over one, the slow-down by the busy process, and the difference between the supernet's losses with all threads
and with one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import common
import torch
from training_steps import Steps, losses, timed
from transformers import Trainer

from nas.pipeline import Run

_CONDITIONS = ("one", "all", "busy")


def measure(arguments: argparse.Namespace, run: Run) -> dict[str, Any]:
    """Measure and print all conditions, and return seconds and ratios."""
    threads = torch.get_num_threads()
    around: dict[str, tuple[int, Callable[[], AbstractContextManager[None]]]] = {
        "one": (1, nullcontext),
        "all": (threads, nullcontext),
        "busy": (threads, common.busy_core),
    }
    found: dict[str, Any] = {"threads": threads, "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default")}
    with tempfile.TemporaryDirectory() as name:
        steps = Steps(run, arguments.steps, arguments.random_subnets, Path(name))
        trainers: dict[str, Callable[[], Trainer]] = {"supernet": steps.supernet, "fine-tuning": steps.fine_tuning}
        batches = islice(steps.fine_tuning().get_train_dataloader(), arguments.steps)
        tokens = fmean(batch["input_ids"].numel() for batch in batches)
        texts = run.study.supernet.batch_size
        print(f"{texts} texts of {tokens / texts:.1f} tokens with padding, {threads} threads, {found['wait_policy']}")
        curves: dict[str, list[float]] = {}
        for kind, trainer in trainers.items():
            timed(trainer())  # warms up
            seconds: dict[str, list[float]] = {condition: [] for condition in _CONDITIONS}
            for _ in range(arguments.rounds):
                for condition, (count, surroundings) in around.items():
                    torch.set_num_threads(count)
                    made = trainer()
                    with surroundings():
                        seconds[condition].append(timed(made))
                    curves[f"{kind} {condition}"] = losses(made)
            torch.set_num_threads(threads)
            one, everything, busy = (median(seconds[condition]) for condition in _CONDITIONS)
            for condition, measured in seconds.items():
                rounds = ", ".join(f"{value:.3f}" for value in measured)
                print(f"{kind:11} {condition:4} {median(measured):.3f} s  (rounds: {rounds})")
            print(
                f"{kind:11} speed-up of all threads {one / everything:.2f}; slow-down if busy {busy / everything:.2f}"
            )
            found |= {f"{kind}_{condition}_s": round(median(seconds[condition]), 4) for condition in _CONDITIONS}
            found |= {f"{kind}_speed_up": round(one / everything, 3), f"{kind}_busy": round(busy / everything, 3)}
    pairs = zip(curves["supernet one"], curves["supernet all"], strict=True)
    found["loss_difference"] = max(abs(a / b - 1.0) for a, b in pairs)
    print(f"supernet: largest relative difference of losses with all threads and one: {found['loss_difference']:.1e}")
    return found


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=40, help="steps per kind and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--random-subnets", type=int, default=2)
    arguments = parser.parse_args()
    common.main(arguments, partial(measure, arguments))
