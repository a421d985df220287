"""Tables whose roundings to nearest change from one neighbour to the other elsewhere than halfway between the numbers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from lowbit.errors import UnsupportedError
from lowbit.formats.format import Overflow
from lowbit.formats.table import TableFormat, smallest_above
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding


def to_nearest(rounding: Rounding) -> bool:
    """Whether a rounding is one to nearest: its cut of a gap is the middle."""
    return rounding.cut is not None and rounding.cut(Fraction(2), Fraction(4), False)[0] == 3


@dataclass(frozen=True, eq=False)
class MiddleFormat(TableFormat):
    """A table with ``middle``, where roundings to nearest change; ties are those at that point. Other roundings act on the numbers.

    A middle that is one of the two neighbours is that number's alone: whatever lies between goes to the other one.
    """

    @abstractmethod
    def middle(self, low: Fraction, high: Fraction) -> Fraction:
        """The point between two neighbours."""

    def cutpoints(
        self, rounding: Rounding = nearest_even, dtype: torch.dtype = torch.float32, overflow: Overflow = "saturate", table: int = 0
    ) -> Tensor:
        """For each pair of neighbours the smallest input that goes up; see ``TableFormat``."""
        if not to_nearest(rounding):
            return super().cutpoints(rounding, dtype, overflow, table)
        return _cuts(self, rounding, dtype)[0].clone()


@lru_cache(maxsize=256)
def _cuts(fmt: MiddleFormat, rounding: Rounding, dtype: torch.dtype) -> tuple[Tensor]:
    if rounding.cut is None:
        raise UnsupportedError(f"rounding {rounding.name} depends on more than the number, so it has no cut points")
    line = fmt.lines[0]
    exact = [Fraction(v) for v in line.values]
    cuts = []
    for low, high, odd in zip(exact, exact[1:], line.odd, strict=False):
        middle = fmt.middle(low, high)
        inclusive = middle == high or (middle != low and rounding.cut(low, high, odd)[1])
        cuts.append((middle, inclusive))
    return (torch.tensor(smallest_above(cuts, dtype), dtype=dtype),)
