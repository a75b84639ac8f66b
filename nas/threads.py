"""Work side by side: each of torch's threads computes items of its own instead of sharing every operator.

An operator on a short text takes well under a millisecond. Threads that share each operator spend most of their time
waiting for each other, and all of them wait when another process takes one of the cores.
"""

from __future__ import annotations

import copy
import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")
R = TypeVar("R")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # as in malloc.h
Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def single_threads(count: int) -> Iterator[Executor]:
    """A pool of `count` threads, each of which computes torch's operators by itself while the block runs."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # new threads would otherwise start with the number that the pool's were given


@contextmanager
def side_by_side(compute: Callable[[T], R], items: Sequence[T], threads: int | None = None) -> Iterator[Iterator[R]]:
    """The results of `compute` for each item, in the order of the items, computed in parallel.

    `threads` defaults to torch's number of threads. A caller that needs no more results leaves the block; at most one
    item per thread is then computed in vain.
    """
    together = threads or torch.get_num_threads()
    if together == 1:
        yield map(compute, items)
        return
    with single_threads(together) as pool:
        yield _in_order(pool, compute, items, together)


def _in_order(pool: Executor, compute: Callable[[T], R], items: Sequence[T], ahead: int) -> Iterator[R]:
    begun = deque[Future[R]]()
    for item in items:
        begun.append(pool.submit(compute, item))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def replica(model: Model) -> Model:
    """A copy of a model that shares the storage of its weights but has gradients, hooks and modes of its own.

    A thread can run forward and backward passes on it while other threads use the original; updates of the weights in
    place reach both.
    """
    shared = (*model.parameters(), *model.buffers())
    memo: dict[int, Any] = {id(tensor): tensor.detach() for tensor in shared}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    return copy.deepcopy(model, memo)


def keep_freed_memory() -> None:
    """Let this process keep large blocks of memory that it frees, for the next ones that it needs.

    A training step allocates and frees the same large blocks each time. The GNU C library returns each of them to the
    system at once and gets it back page by page; on two cores that took a sixth of a step. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28)):
            mallopt(parameter, value)
