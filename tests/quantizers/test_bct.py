"""BCT: the shift of its text, by trying every shift."""

import pytest
import torch

import lowbit
from lowbit.quantizers.spec import quantizer


@pytest.mark.parametrize("bits", [8, 4])
def test_the_largest_shift_that_does_not_clip(bits):
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(40, 64, generator=generator) * torch.exp2(torch.randint(-30, 30, (40, 1), generator=generator))
    x[0, 0], x[1] = 127.0, 0.0
    x[0, 1:] = x[0, 1:].clamp(-100, 100)
    most = 2 ** (bits - 1) - 1
    shifts = torch.arange(-60, 60, dtype=torch.float64)
    fits = x.double().abs().amax(1, keepdim=True) * torch.exp2(shifts) <= most
    e = torch.where(fits, shifts, -torch.inf).amax(1, keepdim=True)
    expected = torch.where(x == 0, 0.0, (x.double() * torch.exp2(e)).round().clamp(-most - 1, most) * torch.exp2(-e))
    assert torch.equal(lowbit.fake_quantize(x, f"bct{bits}").double(), expected)
    assert quantizer(f"bct{bits}").nbytes((40, 64)) == 40 * (8 * bits + 1)
