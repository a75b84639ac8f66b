"""Parallel work on separate items: each thread runs torch on its own item, and no operator is split among threads.

An operator on a short text takes well under a millisecond. If threads share each operator, they spend most of their
time waiting for each other. If another process takes one of the cores, all of them wait for the slowest thread.
Evaluation uses `side_by_side`. Training uses `single_threads` and one `replica` of the model per thread.
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
    """Yield a pool of `count` threads. Each of them runs torch operators without using other threads."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # otherwise new threads would inherit the pool's setting of 1


@contextmanager
def side_by_side(compute: Callable[[T], R], items: Sequence[T], threads: int | None = None) -> Iterator[Iterator[R]]:
    """Yield an iterator over the results of `compute`, in the order of `items`.

    The results are computed in parallel. `threads` defaults to torch's number of threads. If the caller needs no more
    results, it can leave the `with` block early. At most one further item per thread is then computed.
    """
    thread_count = threads or torch.get_num_threads()
    if thread_count == 1:
        yield map(compute, items)
        return
    with single_threads(thread_count) as pool:
        yield _in_order(pool, compute, items, thread_count)


def _in_order(pool: Executor, compute: Callable[[T], R], items: Sequence[T], ahead: int) -> Iterator[R]:
    futures = deque[Future[R]]()
    for item in items:
        futures.append(pool.submit(compute, item))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def replica(model: Model) -> Model:
    """Return a copy of a model that shares the model's weights but has its own gradients, hooks and training mode.

    A thread can run forward and backward passes on the copy while other threads use the original. In-place updates of
    the weights affect both models.
    """
    shared = (*model.parameters(), *model.buffers())
    memo: dict[int, Any] = {id(tensor): tensor.detach() for tensor in shared}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    return copy.deepcopy(model, memo)


def keep_freed_memory() -> None:
    """Make this process reuse large blocks of freed memory instead of returning them to the system.

    A training step allocates and frees the same large blocks each time. By default, the GNU C library returns each
    block to the system at once and requests it again page by page. This took a sixth of the time of a training step on
    two cores. With other C libraries, this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28)):
            mallopt(parameter, value)
