"""Range: the smallest number of a block is its offset, the distance to the largest is spread over the format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, finite_or_nan

GERGANOV = Source(
    "ggml: tensor library for machine learning",
    "Gerganov and contributors",
    2023,
    "https://github.com/ggml-org/ggml",
    parts="the rule of Q4_1 and Q5_1: a block's minimum and (max - min) / (levels - 1)",
    records=("inferflow",),
)


@register("scaling", "range", GERGANOV)
@dataclass(frozen=True)
class Range(Rule):
    """scale = (max x - min x) / max of the format, offset = min x. Zero need not be a number of the grid.

    Raises:
        UnsupportedError: the format's smallest number is not zero.
    """

    name: ClassVar[str] = "range"
    extremes: ClassVar[bool] = True

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        if fmt.min != 0:
            raise UnsupportedError(f"range needs a format from zero up, {fmt.name} starts at {fmt.min:g}; use uint4 for instance")
        if blocks.shape[-1] == 0:
            empty = blocks.new_zeros(blocks.shape[:-1])
            return Affine(empty, offset=empty)
        low, high = finite_or_nan(blocks.amin(-1) + 0.0), finite_or_nan(blocks.amax(-1) + 0.0)
        scale = ((high.double() - low.double()) / fmt.max).clamp(max=torch.finfo(torch.float32).max).float()
        return Affine(scale, offset=torch.where(torch.isnan(scale), 0.0, low))


range_rule = Range()
