"""Clip: a given largest magnitude, the same for every block; learned and static ranges are kept elsewhere and passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax, divided

CHOI = Source(
    "PACT: Parameterized Clipping Activation for Quantized Neural Networks",
    "Choi et al.",
    2018,
    "arXiv:1805.06085",
    parts="section 3, Eq. 1 (the clip; how it is learned is another matter)",
)


@register("scaling", "clip", CHOI)
@dataclass(frozen=True)
class Clip(Rule):
    """scale = largest / top; what is beyond saturates.

    Args:
        largest: the magnitude that becomes the largest number of the format, positive.
    """

    name: ClassVar[str] = "clip"
    extremes: ClassVar[bool] = True
    largest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.largest < 3e38:
            raise UnsupportedError(f"{self.name}:{self.largest:g}: the largest magnitude is a positive number")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        broken = amax(blocks)
        scale = divided(torch.full_like(broken, self.largest), fmt.top)
        return Affine(torch.where(torch.isnan(broken), torch.nan, scale))


clip = Clip()
