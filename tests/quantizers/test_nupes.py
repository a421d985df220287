"""The search for the exponent: the record's minimum, and nothing that was tried is better."""

import pytest
import torch

from lowbit.quantizers.nupes import EXPONENTS
from lowbit.quantizers.spec import quantizer


def error(spec, x):
    return ((quantizer(spec).quantize(x).dequantize() - x).square().sum() / x.square().sum()).item()


def test_figures_of_the_record():
    """Normal rows of 1024 at 4 bits: 0.0203 with equal steps, the least about 0.0158 near an exponent of 0.7."""
    x = torch.randn(500, 1024, generator=torch.Generator().manual_seed(0))
    q = quantizer("nupes4").quantize(x)
    assert 0.65 <= q.grid.format.exponent <= 0.75
    assert error("nupes4", x) == pytest.approx(0.0158, rel=0.015)
    assert error("power4_1 row", x) == pytest.approx(0.0203, rel=0.015)
    assert error("nupes4", x) == min(error(f"power4_{a:g} row", x) for a in EXPONENTS)


def test_even_numbers_take_even_steps():
    x = 2 * torch.rand(50, 256, generator=torch.Generator().manual_seed(0)) - 1
    assert quantizer("nupes4").quantize(x).grid.format.exponent == 1.0
