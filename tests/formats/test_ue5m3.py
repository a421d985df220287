"""The unsigned scale formats are the positive halves of known floats."""

import math

from lowbit.formats.minifloat import float8_e4m3fn
from lowbit.formats.ue5m3 import ue4m3, ue5m3


def test_ue4m3_is_the_positive_half_of_e4m3():
    assert ue4m3.values[:127] == float8_e4m3fn.values[:127] and math.isnan(ue4m3.values[127]) and ue4m3.bits == 7


def test_ue5m3_has_bias_15_and_one_nan():
    assert ue5m3.max == 1.75 * 2.0**16 and ue5m3.min_positive == 2.0**-17 and ue5m3.min == 0
    assert [c for c, v in enumerate(ue5m3.values) if math.isnan(v)] == [255]
