"""Batches side by side: torch's threads share no operator, each computes batches of its own.

The operators of a small network take less than a millisecond. Threads that share each of them wait for each other most
of the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def side_by_side(compute: Callable[[T], R], items: Sequence[T], threads: int | None = None) -> Iterator[Iterator[R]]:
    """What `compute` makes of each item, in their order, by as many threads as torch would use for one, or as told.

    Whoever needs no more results leaves the block: at most one item a thread was computed in vain.
    """
    together = threads or torch.get_num_threads()
    if together == 1:
        yield map(compute, items)
        return
    pool = ThreadPoolExecutor(together, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield _in_order(pool, compute, items, together)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(together)  # what a thread is told holds for those to come, too


def _in_order(pool: ThreadPoolExecutor, compute: Callable[[T], R], items: Sequence[T], ahead: int) -> Iterator[R]:
    begun = deque[Future[R]]()
    for item in items:
        begun.append(pool.submit(compute, item))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
