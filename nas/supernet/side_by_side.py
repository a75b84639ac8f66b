"""Training steps whose work is divided among several threads.

The gradient of a step is a sum over the parts of the batch and over the sub-networks. Each thread computes some terms
of this sum on a replica of the model. A replica shares the model's weights but has its own gradients. The gradients of
the replicas are then added in a fixed order, so that a step always yields the same result. `SideBySideTrainer`
fine-tunes teachers (`loops.py`), and its subclass `DistillationTrainer` trains students.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nas.supernet.checkpoints import SafeTrainer
from nas.tasks import GROUP, IGNORED
from nas.threads import keep_freed_memory, replica, single_threads

Work = Callable[[int], torch.Tensor | None]
"""A function that computes one part of a step, given the index of the replica to use. It adds its gradients to those of
this replica, and returns its part of the step's loss, or None if it computes no loss.
"""
_MAX_THREADS = 8
"""The maximum number of threads. Each thread needs memory for the gradients of all weights."""
LEAST_TOKENS = 128
"""The minimum number of tokens per part of a batch. Matrix products over fewer tokens do not keep a core busy."""


class SideBySideTrainer(SafeTrainer):
    """A Trainer that divides each step among threads if it runs on a CPU.

    It uses as many threads as torch, but at most `_MAX_THREADS`. `replicas` has one model per thread: the model itself
    and copies that share its weights.
    """

    def __init__(self, *, model: nn.Module, **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        self._torch_threads = torch.get_num_threads()
        count = min(self._torch_threads, _MAX_THREADS) if self.args.device.type == "cpu" else 1
        self.replicas = [model, *(_sparse_replica(model) for _ in range(count - 1))]
        self._pool: Executor | None = None

    def train(self, *arguments: Any, **kwargs: Any) -> Any:
        keep_freed_memory()
        with self.threads():
            return super().train(*arguments, **kwargs)

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Provide one thread per replica while the `with` block runs.

        Outside these threads, torch uses a single thread, because the rest of a step, such as the optimiser's update,
        is limited by memory bandwidth.
        """
        count = len(self.replicas)
        with single_threads(count) as pool:
            self._pool = pool
            if count > 1:
                torch.set_num_threads(1)
            try:
                yield
            finally:
                self._pool = None

    @contextmanager
    def all_threads(self) -> Iterator[None]:
        """Let torch's operators use all threads while the `with` block runs, for example during an evaluation."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._torch_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def gradients(self, inputs: dict[str, Any]) -> torch.Tensor:
        work_per_thread = self.work_of_threads(self._prepare_inputs(inputs))
        if len(work_per_thread) == 1:
            losses = self._run_work(0, work_per_thread[0])
        else:
            assert self._pool is not None  # `train` sets it
            futures = [self._pool.submit(self._run_work, number, work) for number, work in enumerate(work_per_thread)]
            losses = [loss for future in futures for loss in future.result()]
            add_gradients(self.replicas)
        return torch.stack(losses).sum()

    @staticmethod
    def _run_work(number: int, items: Sequence[Work]) -> list[torch.Tensor]:
        return [loss for loss in (item(number) for item in items) if loss is not None]

    def work_of_threads(self, inputs: dict[str, torch.Tensor]) -> list[list[Work]]:
        """Return one list of work items per thread. The number of lists must not exceed the number of replicas.

        In this class, each thread computes the loss of one part of the batch.
        """
        parts = split(inputs, min(len(self.replicas), inputs["input_ids"].numel() // LEAST_TOKENS))
        return [[partial(self._learn_labels, part, _weight(part, inputs, share))] for part, share in parts]

    def _learn_labels(self, inputs: dict[str, torch.Tensor], share: float, number: int) -> torch.Tensor:
        if not share:  # no token of this part has a label, so the mean over labelled tokens would be NaN
            return torch.zeros((), device=self.args.device)
        seed = (self.args.seed * 1_000_003 + self.state.global_step) * _MAX_THREADS + number
        model = self.replicas[number].train()
        with SeededDropout(seed, self.args.device), self.accelerator.autocast():
            loss: torch.Tensor = self.compute_loss(model, inputs)  # type: ignore[assignment]
        self.accelerator.backward(loss * share)
        return loss.detach() * share


def _weight(part: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor], share: float) -> float:
    """Return the weight of a part's loss in the loss of the batch.

    If tokens have labels, the weight is the fraction of the batch's labelled tokens that are in this part. Otherwise it
    is `share`, the fraction of the batch's texts that are in this part.
    """
    labels = batch["labels"]
    if labels.shape != batch["input_ids"].shape or labels.is_floating_point():
        return share
    return float((part["labels"] != IGNORED).sum() / (labels != IGNORED).sum().clamp(min=1))


def _sparse_replica(model: nn.Module) -> nn.Module:
    """Return a replica whose embedding tables have sparse gradients, because a part of a batch uses only a few rows."""
    copy = replica(model)
    for module in copy.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = True
    return copy


def split(inputs: Mapping[str, torch.Tensor], parts: int) -> list[tuple[dict[str, torch.Tensor], float]]:
    """Split a batch into at most `parts` parts of consecutive texts, of about equal size.

    Returns each part together with the fraction of the texts that it contains. If the texts have groups, the texts of a
    group stay together.
    """
    texts = len(inputs["input_ids"])
    count = max(1, min(parts, texts))
    bounds = [texts * number // count for number in range(count + 1)]
    if GROUP in inputs:
        starts = [0, *(torch.nonzero(inputs[GROUP].diff())[:, 0] + 1).tolist(), texts]
        bounds = sorted({min(starts, key=lambda start: abs(start - bound)) for bound in bounds})
    return [
        ({name: value[start:end] for name, value in inputs.items()}, (end - start) / texts)
        for start, end in pairwise(bounds)
    ]


def balanced(first: Sequence[tuple[float, Work]], rest: Sequence[tuple[float, Work]], threads: int) -> list[list[Work]]:
    """Distribute work items over `threads` threads so that all threads take about equally long.

    `first` and `rest` hold pairs of a cost and a work item. The items of `first` are assigned in their order, and then
    the items of `rest` in descending order of cost. Each item is assigned to the thread with the lowest total cost so
    far. If several threads have the same total cost, the one with the fewest items gets the item.

    Items of `rest` may wait for results of `first`. If `first` has at most as many items as there are threads, each of
    its items is the first item of a different thread, so that all of them run even if one fails.
    """
    costs, work = [0.0] * threads, list[list[Work]]([] for _ in range(threads))
    for cost, item in (*first, *sorted(rest, key=lambda each: each[0], reverse=True)):
        thread = min(range(threads), key=lambda number: (costs[number], len(work[number])))
        costs[thread] += cost
        work[thread].append(item)
    return work


@torch.no_grad()
def add_gradients(replicas: Sequence[nn.Module]) -> None:
    """Add the gradients of all other replicas to those of the first replica in a fixed order, then reset the others."""
    first, *others = replicas
    for other in others:
        for total, term in zip(first.parameters(), other.parameters(), strict=True):
            if term.grad is None:
                continue
            if total.grad is None:
                total.grad, term.grad = term.grad.to_dense() if term.grad.is_sparse else term.grad, None
            else:
                total.grad += term.grad
                term.grad = None if term.grad.is_sparse else term.grad.zero_()


class SeededDropout(TorchFunctionMode):
    """A mode in which `torch.nn.functional.dropout` draws its masks from a separate, seeded generator.

    All tensors must be on `device`. Without this mode, threads share one generator, and the order in which they use it
    differs from run to run. On a CPU, numpy draws the masks from 16-bit integers. torch would need six times as long to
    draw them, which is about a sixth of the time of a fine-tuning step.
    """

    def __init__(self, seed: int, device: torch.device | str) -> None:
        super().__init__()
        on_cpu = torch.device(device).type == "cpu"
        self._draw = _drawn_by_numpy(seed) if on_cpu else _drawn_by_torch(seed, device)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        called = self._dropout if function is functional.dropout else function
        return called(*args, **kwargs or {})

    def _dropout(
        self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        if not training or not p:
            return input
        return input * self._draw(input, 1.0 - p)


Draw = Callable[[torch.Tensor, float], torch.Tensor]
"""A function that returns a dropout mask, given a tensor and the fraction of values to keep. Each value of the mask is
0 or 1 / fraction.
"""


def _drawn_by_numpy(seed: int) -> Draw:
    generator, levels = np.random.Generator(np.random.SFC64(seed)), 1 << 16

    def draw(tensor: torch.Tensor, keep_share: float) -> torch.Tensor:
        numbers = generator.integers(0, levels, tensor.shape, dtype=np.uint16)
        mask = torch.from_numpy(numbers < round(keep_share * levels))
        return mask.to(tensor.dtype).div_(keep_share or 1.0)

    return draw


def _drawn_by_torch(seed: int, device: torch.device | str) -> Draw:
    generator = torch.Generator(device).manual_seed(seed)  # a tensor on a GPU needs a generator on that GPU

    def draw(tensor: torch.Tensor, keep_share: float) -> torch.Tensor:
        return torch.empty_like(tensor).bernoulli_(keep_share, generator=generator).div_(keep_share or 1.0)

    return draw
