"""The roundings of IEEE 754: to nearest (ties to even, ties away), toward zero, up and down."""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.rounding.rounding import Gap, Rounding

IEEE754 = Source(
    "IEEE Standard for Floating-Point Arithmetic",
    "IEEE",
    2019,
    "IEEE 754-2019",
    parts="4.3.1, 4.3.2",
    departs="Parity is that of the format's codes, so the rules serve tables that are not floating point. "
    "Away from zero (the opposite of toward zero) is added. A gap around zero that holds no zero (binary) goes by the sign.",
    records=("bf16-training", "pychop"),
)


def _side(gap: Gap) -> Tensor:
    """Negative below the midpoint, zero on it, positive above; in float64 the midpoint of two float32 numbers is exact."""
    return gap.y.double() - (gap.low.double() / 2 + gap.high.double() / 2)


def _even(gap: Gap, noise: Tensor | None) -> Tensor:
    side = _side(gap)
    return (side > 0) | ((side == 0) & gap.odd)


def _even_cut(low: Fraction, high: Fraction, odd: bool) -> tuple[Fraction, bool]:
    return (low + high) / 2, odd


def _away(gap: Gap, noise: Tensor | None) -> Tensor:
    side = _side(gap)
    return (side > 0) | ((side == 0) & (gap.y >= 0))


def _away_cut(low: Fraction, high: Fraction, odd: bool) -> tuple[Fraction, bool]:
    middle = (low + high) / 2
    return middle, middle >= 0


def _zero(gap: Gap, noise: Tensor | None) -> Tensor:
    return (gap.high <= 0) | ((gap.low < 0) & (gap.y >= 0))


def _zero_cut(low: Fraction, high: Fraction, odd: bool) -> tuple[Fraction, bool]:
    if low >= 0:
        return high, True
    return (low, False) if high <= 0 else (Fraction(0), True)


def _outward(gap: Gap, noise: Tensor | None) -> Tensor:
    return gap.y > 0


def _outward_cut(low: Fraction, high: Fraction, odd: bool) -> tuple[Fraction, bool]:
    if low >= 0:
        return low, False
    return (high, True) if high <= 0 else (Fraction(0), False)


nearest_even = register("rounding", "nearest_even", IEEE754, aliases=("rne",))(Rounding("nearest_even", _even, _even_cut))
nearest_away = register("rounding", "nearest_away", IEEE754, aliases=("rna",))(Rounding("nearest_away", _away, _away_cut))
toward_zero = register("rounding", "toward_zero", IEEE754, aliases=("rtz",))(Rounding("toward_zero", _zero, _zero_cut))
away_from_zero = register("rounding", "away_from_zero", IEEE754, aliases=("raz",))(Rounding("away_from_zero", _outward, _outward_cut))
up = register("rounding", "up", IEEE754, aliases=("ru",))(
    Rounding("up", lambda gap, noise: gap.y > gap.low, lambda low, high, odd: (low, False))
)
down = register("rounding", "down", IEEE754, aliases=("rd",))(
    Rounding("down", lambda gap, noise: gap.y >= gap.high, lambda low, high, odd: (high, True))
)
