"""Dynamic fixed point: the shared exponent, and that the largest element does not leave the range."""

import pytest
import torch

from lowbit.quantizers.spec import quantizer


@pytest.mark.parametrize("bits", [8, 16])
def test_one_exponent_and_a_clamp(bits):
    x = torch.tensor([1.99999, -1.99999, 0.5, 1e-9, -0.75])
    q = quantizer(f"dfp{bits}").quantize(x)
    step = 2.0 ** -(bits - 2)
    assert q.grid.scale.dequantize().item() == step
    assert q.dequantize().tolist() == [step * (2 ** (bits - 1) - 1), -step * (2 ** (bits - 1) - 1), 0.5, 0.0, -0.75]


def test_dfp16_is_within_half_a_step():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    q = quantizer("dfp16").quantize(x)
    assert (q.dequantize() - x).abs().max() <= q.grid.scale.dequantize() / 2
