"""DAQ's density centre: the offset is the middle of where most numbers lie, not that of the range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax

LUO = Source(
    "DAQ: Density-Aware Post-Training Weight-Only Quantization For LLMs",
    "Luo, Chen",
    2024,
    "arXiv:2410.12187",
    parts="density-centric alignment",
    departs="The alignment is applied (the released code only takes the range from it). Quantiles are elements of the block.",
    records=("daq",),
)


@register("scaling", "daq", LUO)
@dataclass(frozen=True)
class DAQ(Rule):
    """c = (q_lo + q_hi) / 2 of the middle ``share`` of the numbers; scale = shrink * max(max x - c, c - min x) / top, offset = c.

    Args:
        share: in (0, 1], 0.95 in the paper.
        shrink: in (0, 1]; the released code has 0.9.
    """

    name: ClassVar[str] = "daq"
    share: float = 0.95
    shrink: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 < self.shrink <= 1:
            raise UnsupportedError(f"daq:{self.share:g}:{self.shrink:g}: the share and the shrinking factor are in (0, 1]")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        largest = amax(blocks)
        if blocks.shape[-1] == 0:
            return Affine(largest, offset=largest)
        ordered = blocks.double().sort(-1).values
        tail = round((1 - self.share) / 2 * (blocks.shape[-1] - 1))
        centre = ((ordered[..., tail] + ordered[..., -1 - tail]) / 2).float()
        reach = torch.maximum(ordered[..., -1] - centre, centre - ordered[..., 0]).abs()
        scale = (self.shrink * reach / fmt.top).clamp(max=torch.finfo(torch.float32).max).float()
        broken = torch.isnan(largest)
        return Affine(torch.where(broken, torch.nan, scale), offset=torch.where(broken, 0.0, centre))


daq = DAQ()
