"""The contract of a rounding: how to choose between the two neighbours of a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from torch import Tensor


class Gap(NamedTuple):
    """Numbers and their neighbours in a format: low < y < high wherever a decision is needed.

    Shapes:
        y, low, high    one shape, one float dtype
        odd             bool, the declared parity of ``low``
    """

    y: Tensor
    low: Tensor
    high: Tensor
    odd: Tensor


@dataclass(frozen=True)
class Rounding:
    """A rule for choosing a neighbour. Numbers of the format are never moved.

    Args:
        name: as in the catalogue.
        up: (gap, noise) -> bool tensor, True where the upper neighbour is taken. ``noise`` holds 32-bit words.
        cut: for rules that depend on y alone: (low, high, low is odd) -> (point, inclusive): y goes up if it
            is above the point, or at it when inclusive. Exact: formats turn it into one comparison per code.
        noisy: whether ``up`` reads noise.
        bias: of a noisy rounding, the largest |E[round(y)] - y| as a share of the gap; 0 where noise makes up for all but 2**-20.
    """

    name: str
    up: Callable[[Gap, Tensor | None], Tensor]
    cut: Callable[[Fraction, Fraction, bool], tuple[Fraction, bool]] | None = None
    noisy: bool = False
    bias: float = 0.0

    def __call__(self, gap: Gap, noise: Tensor | None = None) -> Tensor:
        """True where the upper neighbour is taken."""
        return self.up(gap, noise)

    def __str__(self) -> str:
        return self.name
