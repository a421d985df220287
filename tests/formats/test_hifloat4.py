"""HiFloat4's scale and element tables."""

import math

import torch

from lowbit.formats.hifloat4 import hifloat4, scale


def test_the_scale_has_six_exponent_and_two_mantissa_bits():
    assert scale.values[0] == 2.0**-48 and scale.max == 49152.0 and math.isnan(scale.values[255]) and len(set(scale.values[:255])) == 255


def test_element_ties_go_away_from_zero():
    ties = torch.tensor([0.125, 0.375, 1.625, -0.125, -0.375, -1.625])
    assert hifloat4.decode(hifloat4.encode(ties)).tolist() == [0.25, 0.5, 1.75, -0.25, -0.5, -1.75]
    assert hifloat4.max == 1.75
