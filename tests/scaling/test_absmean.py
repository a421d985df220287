"""Absmean: the mean magnitude, exactly rounded once."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.ternary import ternary
from lowbit.scaling.absmean import Absmean, absmean
from lowbit.testing.scalings import KINDS, blocks_of


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_magnitude(kind):
    blocks = blocks_of(kind)
    for row, scale in zip(blocks.tolist(), absmean(blocks, ternary).scale.tolist(), strict=True):
        exact = sum(abs(Fraction(v)) for v in row) / len(row)
        assert scale == float(np.float32(float(exact)))


def test_the_worked_example_of_the_paper():
    """Eq. 1-3: gamma is the mean of |W|, and W / gamma is rounded and clipped."""
    W = torch.tensor([[0.1, -0.8, 0.5, -0.2]])
    gamma = absmean(W, ternary).scale
    assert gamma.tolist() == [np.float32(0.4)]
    assert (W / gamma).round().clamp(-1, 1).tolist() == [[0.0, -1.0, 1.0, -0.0]]


def test_a_factor():
    assert Absmean(1.5)(torch.tensor([[2.0, -2.0]]), ternary).scale.tolist() == [3.0]
    assert str(Absmean(1.5)) == "absmean:1.5" and str(absmean) == "absmean"


def test_a_mean_that_float32_cannot_hold_is_the_largest_number():
    top = torch.finfo(torch.float32).max
    assert Absmean(2.0)(torch.full((1, 4), 3e38), ternary).scale.tolist() == [top]
    assert absmean(torch.full((1, 5000), 3e38), ternary).scale.tolist() == [np.float32(3e38)]


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_other_factors_are_refused(factor):
    with pytest.raises(UnsupportedError, match="the factor is a positive number, 1 in the paper"):
        Absmean(factor)
