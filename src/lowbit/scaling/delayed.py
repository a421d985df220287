"""Delayed scaling: the scale of this step comes from the largest magnitudes of earlier ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax, divided

NVIDIA = Source(
    "Transformer Engine: delayed scaling",
    "NVIDIA",
    2022,
    "https://github.com/NVIDIA/TransformerEngine",
    parts="recipe DelayedScaling: amax history, margin, max or most recent",
    departs="The history is the caller's. A history of zeros gives scale 2**margin / top.",
)


@register("scaling", "delayed", NVIDIA)
@dataclass(frozen=True)
class Delayed(Rule):
    """scale = 2**margin * largest / top, with ``largest`` from a history of maxima.

    Args:
        largest: positive.
        margin: binades left free at the top.
    """

    name: ClassVar[str] = "delayed"
    extremes: ClassVar[bool] = True
    largest: float = 1.0
    margin: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.largest < 3e38 or not -60 <= self.margin <= 60:
            raise UnsupportedError(f"{self}: the largest magnitude is positive, the margin at most 60 binades")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        broken = amax(blocks)
        scale = divided(torch.full_like(broken, self.largest * 2.0**self.margin), fmt.top)
        return Affine(torch.where(torch.isnan(broken), torch.nan, scale))


def from_history(history: Sequence[float], how: Literal["max", "latest"] = "max", margin: int = 0) -> Delayed:
    """The rule for the next step; entries that are not finite are left out, as a step that overflowed says nothing.

    Args:
        history: maxima of earlier steps, the latest last.
    """
    known = [float(v) for v in history if math.isfinite(v)]
    largest = (max(known) if how == "max" else known[-1]) if known else 0.0
    return Delayed(largest or 1.0, margin)


delayed = Delayed()
