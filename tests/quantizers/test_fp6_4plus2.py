"""The 4+2 storage and its decoding to float16 without arithmetic; the record's signal-to-noise ratios."""

import pytest
import torch

from lowbit.errors import CheckpointError, ShapeError
from lowbit.formats.minifloat import float6_e3m2fn
from lowbit.quantizers.fp6_4plus2 import as_float16, join_planes, split_planes
from lowbit.quantizers.spec import quantizer

CODES = torch.arange(64, dtype=torch.uint8)


def test_all_codes_decode_through_float16():
    numbers = as_float16(CODES).float() * 2.0**12
    assert torch.equal(numbers.view(torch.int32), float6_e3m2fn.decode(CODES).view(torch.int32))


@pytest.mark.parametrize("low", [1, 2, 3, 4])
def test_planes_are_aligned_and_come_back(low):
    codes = CODES.repeat(2)[:101]
    upper, lower = split_planes(codes, 6, low)
    assert (upper.numel(), lower.numel()) == (-(-101 * (6 - low) // 8), -(-101 * low // 8))
    assert torch.equal(join_planes(upper, lower, 101, 6, low), codes)


def test_the_upper_plane_holds_sign_and_exponent():
    upper, lower = split_planes(torch.tensor([0b101101, 0b010010], dtype=torch.uint8))
    assert upper.tolist() == [0b01001011] and lower.tolist() == [0b1001]


def test_bad_planes_are_named():
    with pytest.raises(ShapeError, match="a lower plane of 6 of 6 bits"):
        split_planes(CODES, 6, 6)
    with pytest.raises(CheckpointError, match="64 codes of 4 bits take 32 bytes, got 31"):
        join_planes(torch.zeros(31, dtype=torch.uint8), torch.zeros(16, dtype=torch.uint8), 64)


@pytest.mark.parametrize(("spec", "decibels"), [("float6_e3m2fn", 25.6), ("float6_e2m3fn", 30.9), ("int6", 29.7)])
def test_ratios_of_the_record(spec, decibels):
    x = torch.randn(1, 60_000, generator=torch.Generator().manual_seed(0))
    y = quantizer(f"{spec} tensor mse:lowest=0.1:steps=181 scale=float32").quantize(x).dequantize()
    assert 10 * torch.log10(x.square().sum() / (y - x).square().sum()).item() == pytest.approx(decibels, abs=0.15)
