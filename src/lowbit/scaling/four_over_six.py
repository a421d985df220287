"""Four over six: the largest magnitude of a block becomes 6 or 4, whichever loses less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax, divided

COOK = Source(
    "Four Over Six: More Accurate NVFP4 Quantization with Adaptive Block Scaling",
    "Cook, Guo, Xiao, Lin, Han",
    2025,
    "arXiv:2512.02010",
    parts="two scales a block, choice by squared error",
    departs="Both candidates are compared as stored. The tensor scale is that of the larger candidate, amax / 4, so it always fits; "
    "the paper's tensor scale amax / (6 * 256) is `absmax:384` one level up.",
)


@register("scaling", "four_over_six", COOK)
@dataclass(frozen=True)
class FourOverSix(Rule):
    """scale = max|x| / high or max|x| / low, the one with the least squared error.

    Args:
        high, low: numbers that the largest magnitude may become, high above low above 0.

    Raises:
        UnsupportedError: they are not in that order, or high is more than the format's largest number.
    """

    name: ClassVar[str] = "four_over_six"
    high: float = 6.0
    low: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UnsupportedError(f"four_over_six:{self.high:g}:{self.low:g}: the first number is above the second, both above 0")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> list[Affine]:
        if self.high > fmt.max:
            raise UnsupportedError(f"four_over_six maps to {self.high:g}, the largest number of {fmt.name} is {fmt.max:g}")
        largest = amax(blocks)
        return [Affine(divided(largest, top)) for top in (self.high, self.low)]


four_over_six = FourOverSix()
