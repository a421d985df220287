"""To nearest, ties to the neighbour nearer to zero."""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.rounding.rounding import Gap, Rounding

PYCHOP = Source(
    "Pychop: Emulating Low-Precision Arithmetic in Numerical Methods and Neural Networks",
    "Carson, Chen",
    2025,
    "arXiv:2504.07835",
    parts="rounding mode 7 (nearest, ties to zero)",
    departs="Odd-symmetric, as stated there (the released code swaps it for negative numbers). A tie at zero goes up.",
    records=("pychop",),
)


def _up(gap: Gap, noise: Tensor | None) -> Tensor:
    side = gap.y.double() - (gap.low.double() / 2 + gap.high.double() / 2)
    return (side > 0) | ((side == 0) & (gap.y <= 0))


def _cut(low: Fraction, high: Fraction, odd: bool) -> tuple[Fraction, bool]:
    middle = (low + high) / 2
    return middle, middle <= 0


nearest_zero = register("rounding", "nearest_zero", PYCHOP, aliases=("rnz",))(Rounding("nearest_zero", _up, _cut))
