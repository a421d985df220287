"""Sign split: one absmax scale for the positive and one for the negative numbers of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax

AFPQ = Source(
    "AFPQ: Asymmetric Floating Point Quantization for LLMs",
    "Zhang et al.",
    2023,
    "arXiv:2311.01792",
    parts="section 3, Eq. 2-3",
    departs="A sign without numbers has scale 0 (the released code divides by it).",
    records=("afpq",),
)


@register("scaling", "sign_split", AFPQ)
@dataclass(frozen=True)
class SignSplit(Rule):
    """scale = max(x, 0) / max of the format, negative = max(-x, 0) / -(min of the format)."""

    name: ClassVar[str] = "sign_split"

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        broken = torch.isnan(amax(blocks))
        above = blocks.amax(-1).clamp(min=0) / torch.tensor(fmt.max, dtype=torch.float32)
        below = (-blocks.amin(-1)).clamp(min=0) / torch.tensor(-fmt.min, dtype=torch.float32)
        return Affine(torch.where(broken, torch.nan, above), negative=torch.where(broken, torch.nan, below))


sign_split = SignSplit()
