"""Absmean: the mean magnitude of a block is one unit (BitNet b1.58)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, finite_or_nan, fixed_sum

BITNET = Source(
    "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits",
    "Ma et al.",
    2024,
    "arXiv:2402.17764",
    parts="Eq. 1-3",
    departs="No epsilon: an all-zero block gets scale 0.",
    records=("bitnet-b158",),
)


@register("scaling", "absmean", BITNET)
@dataclass(frozen=True)
class Absmean(Rule):
    """scale = factor * mean|x|, in float64 and rounded once to float32.

    Args:
        factor: 1 as in the paper; 4/3 is near the least squared error for normal data.

    Raises:
        UnsupportedError: factor is not a positive number.
    """

    name: ClassVar[str] = "absmean"
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise UnsupportedError(f"absmean:{self.factor:g}: the factor is a positive number, 1 in the paper")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        mean = finite_or_nan(fixed_sum(blocks.abs()) / max(1, blocks.shape[-1]))
        return Affine((self.factor * mean).clamp(max=torch.finfo(torch.float32).max).float())


absmean = Absmean()
