"""Measure the time of a training step with one thread, with all threads, and with all threads alongside a busy process.

The benchmark measures steps of the teacher's fine-tuning and of the supernet's training inside the Trainer. The steps
are interleaved and use the same batches of the study's texts. It prints the seconds per step, as the median over rounds
of the mean over steps. It also prints the speed-up of all threads over one thread, the slow-down that the busy process
causes, and the difference between the supernet's losses with all threads and with one.

Threads of one process cannot be faster than independent processes that share nothing but the processor. The benchmark
therefore also runs one process per thread, each with the same steps in a single thread. Their speed-up together is the
limit of this machine: it is less than the number of threads if cores share arithmetic units, caches or memory.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


@contextmanager
def _copies(count: int, make_trainer: Callable[[], Trainer]) -> Iterator[None]:
    """Run `count` copies of this process that train in a loop until the `with` block ends."""
    children: list[int] = []
    for _ in range(count):
        child = os.fork()
        if not child:
            try:
                while True:
                    timed(make_trainer())
            finally:
                os._exit(1)
        children.append(child)
    try:
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure training steps under all conditions, print the results, and return seconds per step and ratios."""
    threads = torch.get_num_threads()
    results: dict[str, Any] = {"threads": threads, "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default")}
    with tempfile.TemporaryDirectory() as name:
        steps = Steps(run, arguments.steps, arguments.random_subnets, Path(name))
        trainers: dict[str, Callable[[], Trainer]] = {"supernet": steps.supernet, "fine-tuning": steps.fine_tuning}
        batches = islice(steps.fine_tuning().get_train_dataloader(), arguments.steps)
        tokens = fmean(batch["input_ids"].numel() for batch in batches)
        texts = run.study.supernet.batch_size
        print(f"{texts} texts of {tokens / texts:.1f} tokens with padding, {threads} threads, {results['wait_policy']}")
        curves: dict[str, list[float]] = {}
        for kind, make_trainer in trainers.items():
            conditions: dict[str, tuple[int, Callable[[], AbstractContextManager[None]]]] = {
                "one": (1, nullcontext),
                "all": (threads, nullcontext),
                "busy": (threads, common.busy_core),
                "processes": (1, partial(_copies, threads - 1, make_trainer)),
            }
            timed(make_trainer())  # warms up
            seconds: dict[str, list[float]] = {condition: [] for condition in conditions}
            for _ in range(arguments.rounds):
                for condition, (count, surroundings) in conditions.items():
                    torch.set_num_threads(count)
                    trainer = make_trainer()
                    with surroundings():
                        seconds[condition].append(timed(trainer))
                    curves[f"{kind} {condition}"] = losses(trainer)
            torch.set_num_threads(threads)
            one_thread, all_threads, busy, processes = map(median, seconds.values())
            limit = threads * one_thread / processes
            for condition, measured in seconds.items():
                rounds = ", ".join(f"{value:.3f}" for value in measured)
                print(f"{kind:11} {condition:9} {median(measured):.3f} s  (rounds: {rounds})")
            print(
                f"{kind:11} speed-up of all threads {one_thread / all_threads:.2f} (limit {limit:.2f}); "
                f"slow-down by a busy process {busy / all_threads:.2f}"
            )
            results |= {f"{kind}_{condition}_s": round(median(measured), 4) for condition, measured in seconds.items()}
            results |= {
                f"{kind}_speed_up": round(one_thread / all_threads, 3),
                f"{kind}_limit": round(limit, 3),
                f"{kind}_busy": round(busy / all_threads, 3),
            }
    pairs = zip(curves["supernet one"], curves["supernet all"], strict=True)
    results["loss_difference"] = max(abs(a / b - 1.0) for a, b in pairs)
    print(
        f"supernet: losses with all threads and with one differ by at most {results['loss_difference']:.1e} (relative)"
    )
    return results


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=40, help="steps per kind and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--random-subnets", type=int, default=2)
    common.main(parser.parse_args(), measure)
