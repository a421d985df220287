"""A table with middles of its own: cut points, ties, and roundings that are not to nearest."""

from dataclasses import dataclass
from fractions import Fraction

import torch

from lowbit.formats.middles import MiddleFormat, to_nearest
from lowbit.rounding.ieee754 import down, nearest_away, nearest_even, toward_zero, up
from lowbit.rounding.stochastic import stochastic


@dataclass(frozen=True, eq=False)
class Quarter(MiddleFormat):
    """The middle lies at a quarter of each gap; above 2 the upper neighbour has all of it."""

    def middle(self, low, high):
        return low if low >= 2 else low + (high - low) / 4


FMT = Quarter("quarter", (0.0, 1.0, 2.0, 4.0))


def test_nearest_rules_change_at_the_middle_and_others_do_not():
    y = torch.tensor([0.2499, 0.25, 0.2501, 1.25, 2.0, 2.0001])
    assert FMT.decode(FMT.encode(y)).tolist() == [0, 0, 1, 2, 2, 4]
    assert FMT.decode(FMT.encode(y, nearest_away)).tolist() == [0, 1, 1, 2, 2, 4]
    assert FMT.decode(FMT.encode(y, down)).tolist() == [0, 0, 0, 1, 2, 2]


def test_which_rules_are_to_nearest():
    assert to_nearest(nearest_even) and to_nearest(nearest_away)
    assert not any(to_nearest(r) for r in (up, down, toward_zero, stochastic))
    assert FMT.middle(Fraction(0), Fraction(1)) == Fraction(1, 4)
