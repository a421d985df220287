"""Where the number of threads would change bits: torch runs on one thread, and several pieces of work run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch runs on one thread inside; the number from before is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workers:
    """Threads that each run torch on one thread, so that what one of them computes does not depend on how many there are.

    Args:
        count: of threads; with 1 the caller's own does the work.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(count) if count > 1 else None

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """``work(item)`` for each item, in the order of the items; no more results wait than there are threads."""
        if self.pool is None:
            yield from map(work, items)
            return
        for first in range(0, len(items), self.count):
            yield from self.pool.map(work, items[first : first + self.count])

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()


@contextmanager
def workers(device: torch.device | str = "cpu") -> Iterator[Workers]:
    """As many as torch has threads, on a CPU; elsewhere one, since a device takes one piece of work after the other."""
    count = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    with one_thread():
        team = Workers(count)
        try:
            yield team
        finally:
            team.close()
