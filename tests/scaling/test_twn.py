"""TWN: no scale that was tried is better, and the record's error on normal numbers."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.integer import int8
from lowbit.quantizers.spec import quantizer
from lowbit.scaling.twn import twn


def errors(spec, x):
    return (quantizer(spec).quantize(x).dequantize() - x).double().square().sum(1)


def test_no_scale_is_better():
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0)) ** 3
    found = errors("ternary_element row twn scale=float32", x)
    size = x.abs().double()
    for scale in torch.linspace(0.01, 1, 500).tolist():
        s = scale * size.amax(1, keepdim=True)
        assert bool(((size - s * (size > s / 2)).square().sum(1) >= found * (1 - 1e-5)).all())


def test_the_record_on_normal_numbers():
    """absmean leaves 0.263, the scale of least error (near 4/3 of the mean magnitude) about 0.19."""
    x = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    absmean = errors("ternary", x).item() / x.numel()
    near = errors("ternary_element tensor absmean:1.3333 scale=float32", x).item() / x.numel()
    least = errors("ternary_element tensor twn scale=float32", x).item() / x.numel()
    assert absmean == pytest.approx(0.263, abs=0.003) and near == pytest.approx(0.199, abs=0.003) and 0.18 < least < near


def test_other_formats_are_refused():
    with pytest.raises(UnsupportedError, match="twn is for ternary numbers, int8 goes from -128 to 127"):
        twn(torch.ones(1, 4), int8)
