"""AFPQ's figures, and one-sided groups."""

import pytest
import torch

from lowbit.quantizers.spec import quantizer

stats = pytest.importorskip("scipy.stats")


def relative_error(spec, x):
    return ((quantizer(spec).quantize(x).dequantize() - x).square().mean() / x.square().mean()).item()


def test_figures_of_the_record():
    x = torch.randn(4000, 128, generator=torch.Generator().manual_seed(0))
    t5 = torch.from_numpy(stats.t(5).rvs((4000, 128), random_state=0)).float()
    for spec, normal, heavy in (
        ("float4_e2m1fn g128", 0.0119, 0.0154), ("afpq4", 0.0112, 0.0127), ("e2m0f g128", 0.0571, 0.0964), ("afpq3", 0.0513, 0.0738),
    ):  # fmt: skip
        assert relative_error(spec, x) == pytest.approx(normal, rel=0.01)
        assert relative_error(spec, t5) == pytest.approx(heavy, rel=0.03)  # random t(5) draws


def test_a_group_without_negative_numbers_is_finite():
    x = torch.rand(2, 128, generator=torch.Generator().manual_seed(0)) + 0.1
    assert torch.isfinite(quantizer("afpq4").quantize(x).dequantize()).all()
