"""Binary: the sign, with zero counted as positive."""

import math

import torch

from lowbit.formats.binary import binary
from lowbit.rounding.ieee754 import nearest_away, toward_zero


def test_it_is_the_sign():
    y = torch.tensor([-9.0, -1e-45, -0.0, 0.0, 1e-45, 9.0, math.inf, -math.inf])
    want = [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0]
    for rule in (nearest_away, toward_zero):
        assert binary.decode(binary.encode(y, rule)).tolist() == want
    assert binary.decode(binary.encode(y)).tolist() == want


def test_facts():
    assert (binary.bits, binary.levels, binary.max, binary.min, binary.min_positive) == (1, 2, 1.0, -1.0, 1.0)
