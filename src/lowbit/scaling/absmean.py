"""Absmean: the mean magnitude of a block is one unit (BitNet b1.58)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, finite_or_nan

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
    """scale = factor * mean|x|.

    Args:
        factor: 1 as in the paper; 4/3 is near the least squared error for normal data.
    """

    name: ClassVar[str] = "absmean"
    factor: float = 1.0

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        return Affine(finite_or_nan(self.factor * blocks.abs().mean(-1)))


absmean = Absmean()
