"""How long work tells where it stands: one small record after each step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Progress:
    """One step of a stage is done.

    Args:
        stage: what is being done, in one word (``evaluate``, ``quantize``).
        done, total: steps finished and steps in all; ``done`` is 0 when the stage begins.
        detail: which text, layer or file.
    """

    stage: str
    done: int
    total: int
    detail: str = ""


ProgressCallback = Callable[[Progress], None]
EVERY = 30.0


def plain_lines(every: float = EVERY) -> ProgressCallback:
    """``quantize 3 of 30 after 95 s, about 855 s left: model.layers.3`` on standard error, for logs of long runs.

    Args:
        every: seconds between two lines at least, and before the first.
    """
    began: dict[str, float] = {}
    last = time.monotonic()

    def show(event: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if event.stage not in began or event.done == 0:
            began[event.stage] = now
        if now - last < every:
            return
        last = now
        spent = now - began[event.stage]
        left = f", about {spent / event.done * (event.total - event.done):.0f} s left" if event.done else ""
        detail = f": {event.detail}" if event.detail else ""
        print(f"{event.stage} {event.done} of {event.total} after {spent:.0f} s{left}{detail}", file=sys.stderr, flush=True)

    return show


@contextmanager
def bars(enabled: bool = True) -> Iterator[ProgressCallback]:
    """A progress bar on standard error, one line a stage, with the time left; where it is no terminal, a plain line now and then."""
    console = Console(stderr=True)
    if enabled and not console.is_terminal:
        yield plain_lines()
        return
    columns = (
        TextColumn("{task.description:24}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
    )
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not enabled) as drawn:
        tasks: dict[str, rich.progress.TaskID] = {}

        def show(event: Progress) -> None:
            if event.stage not in tasks or event.done == 0:
                if event.stage in tasks:
                    drawn.remove_task(tasks[event.stage])
                tasks[event.stage] = drawn.add_task(event.stage, total=event.total, detail="")
            drawn.update(tasks[event.stage], completed=event.done, total=event.total, detail=event.detail)

        yield show
