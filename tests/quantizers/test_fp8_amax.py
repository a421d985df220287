"""FP8-AMAX: the scale is 2**-b with b = floor(log2(F / amax)), in exact numbers."""

from fractions import Fraction

import pytest
import torch

from lowbit.quantizers.spec import quantizer


@pytest.mark.parametrize(("spec", "F"), [("fp8_amax", 240), ("fp8_amax_e5m2", 57344)])
@pytest.mark.parametrize("largest", [1.0, 240.0, 240.00002, 239.99998, 57344.0, 3.3e-5, 1e30])
def test_the_bias(spec, F, largest):
    x = torch.linspace(-1, 1, 64) * largest
    b, share = 0, Fraction(F) / Fraction(x.abs().max().item())
    while Fraction(2) ** (b + 1) <= share:
        b += 1
    while Fraction(2) ** b > share:
        b -= 1
    assert quantizer(spec).quantize(x).grid.scale.dequantize().item() == 2.0**-b
