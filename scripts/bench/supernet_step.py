"""What a supernet training step costs, against a plain fine-tuning step of the teacher at the same batch.

All are measured inside the Trainer, with everything that a step does there, in turns and on the same batches:
  - plain: the teacher's own class on labels, every weight trained, with dropout: how a teacher is fine-tuned;
  - lean: the same without dropout and with the word table frozen, as the supernet's step is by default;
  - supernet: the teacher's forward pass, and forward and backward passes of the largest, the smallest and two random
    sub-networks.

Prints the seconds of each (median over rounds of the mean over steps), the supernet's ratio to both, and how much of
its step the matrix products alone would take, at the rate of a product of the teacher's sizes in the same rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import common
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from training_steps import Steps, timed

from nas.pipeline import Run


def matrix_rate(tokens: int, hidden_size: int, intermediate_size: int, kind: torch.dtype) -> float:
    """Operations a second of a product as the largest sub-network's feed-forward part has it."""
    states, weight = torch.randn(tokens, hidden_size).to(kind), torch.randn(intermediate_size, hidden_size).to(kind)
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        functional.linear(states, weight)
        seconds.append(time.perf_counter() - started)
    return 2.0 * tokens * hidden_size * intermediate_size / median(seconds)


def measure(arguments: argparse.Namespace, run: Run) -> dict[str, Any]:
    """Measure and print; returns ratios and seconds."""
    settings, shape = run.study.supernet, run.study.space.teacher
    seconds: dict[str, list[float]] = {"plain": [], "lean": [], "supernet": []}
    rates = []
    with tempfile.TemporaryDirectory() as name:
        steps = Steps(run, arguments.steps, arguments.random_subnets, Path(name))
        trainers = {"plain": steps.fine_tuning, "lean": steps.lean, "supernet": steps.supernet}
        first = steps.fine_tuning()
        batches = islice(first.get_train_dataloader(), arguments.steps)
        tokens = round(fmean(batch["input_ids"].numel() for batch in batches))
        precision = torch.bfloat16 if first.args.bf16 else torch.float32
        with FlopCounterMode(display=False) as counter:  # and warm up
            timed(steps.supernet())
        for _ in range(arguments.rounds):
            for kind, measured in seconds.items():
                measured.append(timed(trainers[kind]()))
            rates.append(matrix_rate(tokens, shape.hidden_size, shape.intermediate_size, precision))
    plain, lean, supernet = (median(measured) for measured in seconds.values())
    products = counter.get_total_flops() / arguments.steps / median(rates)
    print(f"{settings.batch_size} texts, {tokens} tokens with padding; {torch.get_num_threads()} threads, {precision}")
    for kind, measured in seconds.items():
        print(f"{kind:9} {median(measured):.3f} s  (rounds: {', '.join(f'{value:.3f}' for value in measured)})")
    print(f"ratio     {supernet / plain:.2f} to plain, {supernet / lean:.2f} to lean")
    print(f"products  {products:.3f} s at {median(rates) / 1e9:.0f} GFLOP/s: {products / supernet:.0%} of the step")
    found = {"step_ratio": supernet / plain, "lean_ratio": supernet / lean, "matmul_fraction": products / supernet}
    found |= {"plain_s": plain, "lean_s": lean, "supernet_s": supernet, "matrix_gflops": median(rates) / 1e9}
    return {name: round(value, 4) for name, value in found.items()}


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument(
        "--steps", type=int, default=50, help="steps of each kind in a round; 50 hold all lengths alike"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--random-subnets", type=int, default=2)
    arguments = parser.parse_args()
    common.main(arguments, partial(measure, arguments))
