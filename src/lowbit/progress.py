"""How long work tells where it stands: one small record after each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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
