"""Percentile: absmax of what is left after the largest magnitudes of a block are cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax, divided

WU = Source(
    "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    "Wu, Judd, Zhang, Isaev, Micikevicius",
    2020,
    "arXiv:2004.09602",
    parts="section 3.1, percentile calibration",
    departs="The percentile is an element of the block (the ceil(share * n)-th smallest magnitude), not interpolated.",
    records=("int8-principles",),
)


@register("scaling", "percentile", WU)
@dataclass(frozen=True)
class Percentile(Rule):
    """scale = q / top, where ``share`` of the magnitudes of the block are at most q.

    Args:
        share: in (0, 1].
    """

    name: ClassVar[str] = "percentile"
    share: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UnsupportedError(f"percentile:{self.share:g}: the share is in (0, 1], 0.999 for instance")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        count = blocks.shape[-1]
        k = min(count, max(1, -int(-self.share * count // 1)))
        kept = blocks.abs().kthvalue(k, -1).values
        return Affine(divided(torch.where(torch.isnan(amax(blocks)), torch.nan, kept), fmt.top))


percentile = Percentile()
