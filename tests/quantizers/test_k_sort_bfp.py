"""Block floating point by its formula: scale = 2**(floor(log2 amax) - (b - 2)), two's complement codes."""

import math

import pytest
import torch

from lowbit.quantizers.spec import quantizer


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_the_papers_formula(bits):
    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)) * 2.0 ** torch.arange(-16, 16).unsqueeze(1)
    y = quantizer(f"bfp{bits}").quantize(x).dequantize()
    for row, got in zip(x.double(), y.double(), strict=True):
        scale = 2.0 ** (math.floor(math.log2(row.abs().max())) - (bits - 2))
        assert torch.equal(got, scale * (row / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))


def test_sorting_channels_helps_the_small_ones():
    """Log-normal channel scales, blocks of 32 of 128 channels: the mean relative error falls at least threefold."""
    g = torch.Generator().manual_seed(0)
    size = torch.exp(torch.randn(128, generator=g))
    K = torch.randn(2000, 128, generator=g) * size

    def error(order):
        y = quantizer("bfp4").quantize(K[:, order]).dequantize()
        return ((y - K[:, order]).square().mean(0) / K[:, order].square().mean(0)).mean()

    assert error(torch.arange(128)) > 3 * error(size.argsort())
