"""The contract, and that the checks catch a rounding that breaks it."""

from fractions import Fraction

import pytest
import torch

from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Gap, Rounding
from lowbit.testing.roundings import check_cut, check_rounding, check_unbiased


def test_a_rounding_prints_as_its_name():
    assert str(nearest_even) == "nearest_even"


def test_a_rule_and_a_cut_that_disagree_are_found():
    wrong = Rounding("wrong", nearest_even.up, lambda low, high, odd: ((low + high) / 2, not odd))
    with pytest.raises(AssertionError, match="wrong: the rule takes .* its cut point .* says the opposite"):
        check_cut(wrong)


def test_a_rule_that_jumps_is_found():
    """Up below the midpoint, down above it: neighbours only, but not monotone."""
    jumps = Rounding("jumps", lambda gap, noise: gap.y - gap.low < gap.high - gap.y)
    with pytest.raises(AssertionError, match="jumps in .* goes to"):
        check_rounding(jumps)


def test_a_biased_rule_is_found():
    biased = Rounding(
        "biased", lambda gap, noise: (noise >> 8).float() < 1.1 * (gap.y - gap.low) / (gap.high - gap.low) * 2.0**24, noisy=True
    )
    with pytest.raises(AssertionError, match="biased is biased: the mean of 20000 roundings of .* is off by"):
        check_unbiased(biased)


def test_a_users_own_rounding_passes():
    """Half toward minus infinity: ties go down whatever the parity."""
    half_down = Rounding(
        "half_down",
        lambda gap, noise: gap.y.double() > gap.low.double() / 2 + gap.high.double() / 2,
        lambda low, high, odd: ((low + high) / Fraction(2), False),
    )
    check_rounding(half_down)
    one = torch.ones(1)
    assert half_down(Gap(one / 2, 0 * one, one, torch.tensor([False]))).tolist() == [False]
