"""What a supernet training step costs, against a plain fine-tuning step of the teacher at the same batch.

Both are measured inside the Trainer, with everything that a step does there: the plain one on the teacher's own class,
with dropout; the supernet's with the teacher's forward pass, and forward and backward passes of the largest, the
smallest and two random sub-networks. They take turns, on the same batches.

Prints the seconds of each (median over rounds of the mean over steps), their ratio, and how much of the supernet step
its matrix products alone would take at the rate measured in the same rounds on a product of the teacher's sizes.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import common
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
)
from transformers.trainer_callback import PrinterCallback

from nas.model.stock import from_stock
from nas.pipeline.prepare import load_tokenizer, prepare_data, teacher_source
from nas.supernet import BertSupernet
from nas.supernet.distillation import LossWeights
from nas.supernet.loops import Schedule, training_arguments
from nas.supernet.sampling import sandwich
from nas.supernet.training import DistillationTrainer

WARM_UP = 3


class _Clock(TrainerCallback):
    """Notes when steps end, and how many tokens they had."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Mean seconds of a step after the first ones."""
        kept = self.ends[WARM_UP - 1 :]
        return (kept[-1] - kept[0]) / (len(kept) - 1)


def timed(trainer: Trainer) -> float:
    """Train to the end; seconds of a step."""
    clock = _Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


def matrix_rate(tokens: int, hidden_size: int, intermediate_size: int, kind: torch.dtype) -> float:
    """Operations a second of a product as the largest sub-network's feed-forward part has it."""
    states, weight = torch.randn(tokens, hidden_size).to(kind), torch.randn(intermediate_size, hidden_size).to(kind)
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        functional.linear(states, weight)
        seconds.append(time.perf_counter() - started)
    return 2.0 * tokens * hidden_size * intermediate_size / median(seconds)


def main() -> None:
    """Measure and print."""
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--random-subnets", type=int, default=2)
    arguments = parser.parse_args()
    run = common.run_of(arguments)
    study, settings = run.study, run.study.supernet
    data, source = prepare_data(run), teacher_source(run)
    torch.manual_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(source, num_labels=data.num_labels)
    tokenizer, steps = load_tokenizer(source), WARM_UP + arguments.steps

    def make(folder: Path, kind: Callable[..., Trainer], model: Any, **about: Any) -> Trainer:
        made = training_arguments(teacher, folder, Schedule(1e-6, settings.batch_size, steps=steps), study.seed)
        made.save_strategy = "no"
        collator = DataCollatorWithPadding(tokenizer)
        return kind(**about, **model, args=made, train_dataset=data.train, data_collator=collator)

    def plain(folder: Path) -> Trainer:
        return make(folder, Trainer, {"model": copy.deepcopy(teacher)})

    def supernet(folder: Path) -> Trainer:
        weights = from_stock(teacher)
        weights.bert.embeddings.word_embeddings.requires_grad_(settings.train_embeddings)
        return make(
            folder,
            DistillationTrainer,
            {"supernet": BertSupernet(weights)},
            teacher=from_stock(teacher),
            architectures=sandwich(study.space, arguments.random_subnets, settings.sampling, study.seed),
            losses=LossWeights(settings.logits_weight, settings.hidden_weight, settings.relation_weight),
        )

    shape = study.space.teacher
    plains, supernets, rates = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = plain(folder)
        tokens = round(fmean(batch["input_ids"].numel() for batch in islice(first.get_train_dataloader(), steps)))
        kind = torch.bfloat16 if first.args.bf16 else torch.float32
        for _ in range(arguments.rounds):
            plains.append(timed(plain(folder)))
            supernets.append(timed(supernet(folder)))
            rates.append(matrix_rate(tokens, shape.hidden_size, shape.intermediate_size, kind))
        with FlopCounterMode(display=False) as counter:
            timed(supernet(folder))
    plain_s, supernet_s, rate = median(plains), median(supernets), median(rates)
    products_s = counter.get_total_flops() / steps / rate
    print(f"{settings.batch_size} texts, {tokens} tokens with padding; {torch.get_num_threads()} threads, {kind}")
    print(f"plain step     {plain_s:.3f} s  (rounds: {', '.join(f'{seconds:.3f}' for seconds in plains)})")
    print(f"supernet step  {supernet_s:.3f} s  (rounds: {', '.join(f'{seconds:.3f}' for seconds in supernets)})")
    print(f"ratio          {supernet_s / plain_s:.2f}")
    print(f"its products   {products_s:.3f} s at {rate / 1e9:.0f} GFLOP/s, {products_s / supernet_s:.0%} of the step")
    found = {"step_ratio": supernet_s / plain_s, "matmul_fraction": products_s / supernet_s}
    found |= {"plain_s": plain_s, "supernet_s": supernet_s, "matrix_gflops": rate / 1e9}
    common.finish(arguments, {name: round(value, 4) for name, value in found.items()})


if __name__ == "__main__":
    main()
