"""The dynamic type: the midpoints of bitsandbytes' map, in rational numbers rounded once."""

import itertools
from fractions import Fraction

import numpy as np
import torch

from lowbit.formats.dynamic_tree import dynamic8, dynamic_tree


def test_the_numbers_are_the_midpoints_rounded_once():
    numbers = {Fraction(0), Fraction(1)}
    for i in range(7):
        edges = [Fraction(1, 10) + Fraction(9, 10) * k / 2**i for k in range(2**i + 1)]
        for a, b in itertools.pairwise(edges):
            number = (a + b) / 2 * Fraction(10) ** (i - 6)
            numbers |= {number, -number}
    assert len(numbers) == 256
    want = [float(np.float32(float(v))) for v in sorted(numbers)]
    assert list(dynamic8.values) == want


def test_it_has_zero_one_and_no_minus_one():
    assert 0.0 in dynamic8.values and dynamic8.max == 1.0
    assert dynamic8.min == -float(np.float32(0.99296875))
    assert dynamic8.bits == 8 and dynamic8.levels == 256


def test_few_exponents():
    """Two exponents: 2 + 2 * (1 + 2) numbers."""
    assert np.allclose(dynamic_tree("small", 2).values, [-0.775, -0.325, -0.055, 0, 0.055, 0.325, 0.775, 1])


def test_small_numbers_keep_their_decade():
    y = torch.tensor([5.4e-7, 1e-8, 0.9999])
    assert dynamic8.decode(dynamic8.encode(y)).tolist() == [float(np.float32(5.5e-7)), 0.0, 1.0]
