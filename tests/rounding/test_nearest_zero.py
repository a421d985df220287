"""Ties go toward zero, on both sides; everything else is nearest."""

import torch

from lowbit.formats.integer import int4
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.nearest_zero import nearest_zero


def test_ties():
    y = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    for sign in (1, -1):
        got = float4_e2m1fn.decode(float4_e2m1fn.encode(sign * y, nearest_zero))
        assert got.tolist() == [sign * v for v in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)]


def test_other_numbers_are_nearest():
    y = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 4
    assert torch.equal(int4.encode(y, nearest_zero), int4.encode(y, nearest_even))
