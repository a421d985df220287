"""How long work tells where it stands: one small record after each step."""

from __future__ import annotations

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


@contextmanager
def bars(enabled: bool = True) -> Iterator[ProgressCallback]:
    """A progress bar on standard error, one line a stage, with the time left; nothing is drawn when it is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:24}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
    )
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not enabled or not console.is_terminal) as drawn:
        tasks: dict[str, rich.progress.TaskID] = {}

        def show(event: Progress) -> None:
            if event.stage not in tasks or event.done == 0:
                if event.stage in tasks:
                    drawn.remove_task(tasks[event.stage])
                tasks[event.stage] = drawn.add_task(event.stage, total=event.total, detail="")
            drawn.update(tasks[event.stage], completed=event.done, total=event.total, detail=event.detail)

        yield show
