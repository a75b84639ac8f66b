"""Compare the time of a supernet training step with the time of a plain fine-tuning step of the teacher.

Complete steps of the Trainer are measured, interleaved and on the same batches:
  - plain: fine-tuning of the teacher's original model class on labels, with all weights trained and with dropout;
  - lean: like plain, but without dropout and with frozen token embeddings, as in the supernet's step by default;
  - supernet: the teacher's forward pass, and forward and backward passes of the largest, the smallest and two random
    sub-networks.

The benchmark prints the seconds and the tokens per second of each kind, as the median over rounds of the mean over
steps. It also prints the ratios of the supernet's time to the other two times. In addition, it prints the rate of the
supernet's floating-point operations as a fraction of the rate of a matrix product of the teacher's sizes, which is
measured in the same rounds. With --tokens, all texts have the same length.
"""

from __future__ import annotations

import argparse
import tempfile
import time
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
    """Return the floating-point operations per second of a matrix product.

    The matrices have the sizes of a complete feed-forward block.
    """
    states, weight = torch.randn(tokens, hidden_size).to(kind), torch.randn(intermediate_size, hidden_size).to(kind)
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        functional.linear(states, weight)
        seconds.append(time.perf_counter() - started)
    return 2.0 * tokens * hidden_size * intermediate_size / median(seconds)


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all three kinds of steps, print the results, and return seconds per step and ratios."""
    settings, shape = run.study.supernet, run.study.space.teacher
    seconds: dict[str, list[float]] = {"plain": [], "lean": [], "supernet": []}
    rates = []
    with tempfile.TemporaryDirectory() as name:
        steps = Steps(run, arguments.steps, arguments.random_subnets, Path(name), arguments.tokens)
        trainers = {"plain": steps.fine_tuning, "lean": steps.lean, "supernet": steps.supernet}
        fine_tuning = steps.fine_tuning()
        batches = islice(fine_tuning.get_train_dataloader(), arguments.steps)
        tokens = round(fmean(batch["input_ids"].numel() for batch in batches))
        precision = torch.bfloat16 if fine_tuning.args.bf16 else torch.float32
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the counter sees only the operations of its own thread
        with FlopCounterMode(display=False) as counter:
            timed(steps.supernet())
        torch.set_num_threads(threads)
        timed(steps.supernet())  # warms up
        for _ in range(arguments.rounds):
            for kind, measured in seconds.items():
                measured.append(timed(trainers[kind]()))
            rates.append(matrix_rate(tokens, shape.hidden_size, shape.intermediate_size, precision))
    plain, lean, supernet = (median(measured) for measured in seconds.values())
    operations = counter.get_total_flops() / arguments.steps
    fraction = operations / median(rates) / supernet
    print(f"{settings.batch_size} texts, {tokens} tokens with padding; {torch.get_num_threads()} threads, {precision}")
    for kind, measured in seconds.items():
        middle, rounds = median(measured), ", ".join(f"{value:.3f}" for value in measured)
        print(f"{kind:9} {middle:.3f} s, {tokens / middle:,.0f} tokens/s  (rounds: {rounds})")
    print(f"ratio     supernet / plain {supernet / plain:.2f}, supernet / lean {supernet / lean:.2f}")
    print(
        f"rate      {operations / supernet / 1e9:.0f} GFLOP/s in a supernet step: {fraction:.0%} of the "
        f"{median(rates) / 1e9:.0f} GFLOP/s of a matrix product"
    )
    results = {"step_ratio": supernet / plain, "lean_ratio": supernet / lean, "matmul_fraction": fraction}
    results |= {"tokens_per_s": tokens / supernet, "tokens": tokens}
    results |= {"plain_s": plain, "lean_s": lean, "supernet_s": supernet, "matrix_gflops": median(rates) / 1e9}
    return {name: round(value, 4) for name, value in results.items()}


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument(
        "--steps", type=int, default=50, help="steps per kind and round; 50 are enough to represent all text lengths"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--random-subnets", type=int, default=2)
    parser.add_argument("--tokens", type=int, help="tokens per text (default: those of the study's texts)")
    common.main(parser.parse_args(), measure)
