"""Sign split: one absmax scale for the positive and one for the negative numbers of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax, divided

AFPQ = Source(
    "AFPQ: Asymmetric Floating Point Quantization for LLMs",
    "Zhang et al.",
    2023,
    "arXiv:2311.01792",
    parts="a scale for each sign",
    departs="A sign without numbers has scale 0 (the released code divides by it).",
    records=("afpq",),
)


@register("scaling", "sign_split", AFPQ)
@dataclass(frozen=True)
class SignSplit(Rule):
    """scale = max(x, 0) / max of the format, negative = max(-x, 0) / -(min of the format).

    Raises:
        UnsupportedError: the format does not have numbers of both signs.
    """

    name: ClassVar[str] = "sign_split"

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        if not fmt.min < 0 < fmt.max:
            raise UnsupportedError(f"sign_split needs numbers of both signs, {fmt.name} goes from {fmt.min:g} to {fmt.max:g}")
        broken = torch.isnan(amax(blocks))
        above = divided(blocks.amax(-1).clamp(min=0), fmt.max)
        below = divided((-blocks.amin(-1)).clamp(min=0), -fmt.min)
        return Affine(torch.where(broken, torch.nan, above), negative=torch.where(broken, torch.nan, below))


sign_split = SignSplit()
