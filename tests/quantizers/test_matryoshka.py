"""Slices against the formula in exact numbers, and the record's count of codes that truncation gets wrong."""

import math
from fractions import Fraction

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.quantizers.matryoshka import slice_codes, sliced

CODES = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("saturate", [True, False])
def test_every_code_and_width(bits, saturate):
    want = [math.floor(Fraction(q, 2 ** (8 - bits)) + Fraction(1, 2)) for q in range(256)]
    want = [min(t, 2**bits - 1) for t in want] if saturate else want
    assert slice_codes(CODES.int(), bits, saturate=saturate).tolist() == want
    assert sliced(CODES, bits, saturate=saturate).tolist() == [t * 2 ** (8 - bits) for t in want]


def test_truncation_differs_in_96_codes_of_2_bits():
    assert int((slice_codes(CODES, 2) != CODES >> 6).sum()) == 96


def test_a_width_beyond_the_master_is_named():
    with pytest.raises(UnsupportedError, match="9 bits out of codes of 8 bits"):
        slice_codes(CODES, 9)
