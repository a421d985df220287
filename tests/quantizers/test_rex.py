"""Residual stacks: the bound of the paper, tight, and the record's errors on normal rows of 512."""

import pytest
import torch

from lowbit.errors import ShapeError
from lowbit.quantizers.rex import error_bound, residuals
from lowbit.quantizers.spec import quantizer

W = torch.randn(400, 512, generator=torch.Generator().manual_seed(0))


def spec(bits):
    return quantizer(f"int{bits}_narrow row scale=float32")


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_error_obeys_the_bound_and_comes_near(bits):
    for terms in (1, 2, 3, 4):
        weight = residuals(W, [spec(bits)] * terms)
        error = (weight.dequantize() - W).abs().max().item()
        bound = error_bound(weight.terms[0], bits, terms)
        assert 0.9 * bound < error <= bound * (1 + 1e-4) + 1e-6


@pytest.mark.parametrize(("bits", "errors"), [(2, (0.715, 0.224, 0.057, 0.014)), (3, (0.101, 0.0028)), (4, (0.0183, 9.4e-5))])
def test_figures_of_the_record(bits, errors):
    for terms, want in enumerate(errors, 1):
        error = (residuals(W, [spec(bits)] * terms).dequantize() - W).square().mean() / W.square().mean()
        assert error.item() == pytest.approx(want, rel=0.03)


def test_a_share_of_rows_takes_the_worst_ones():
    scaled = W * torch.linspace(0.1, 3, 400).unsqueeze(1)
    weight = residuals(scaled, [spec(4)] * 2, share=0.1)
    assert weight.terms[1].index.numel() == 40
    first = residuals(scaled, [spec(4)])
    gain = (weight.dequantize() - scaled).square().sum() / (first.dequantize() - scaled).square().sum()
    assert gain < 0.8
    with pytest.raises(ShapeError, match="0 terms"):
        residuals(W, [])
