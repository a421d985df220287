"""M1 and M2: scales that are powers of two, exactness in e4m3, and the record's errors."""

from dataclasses import replace

import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.zeroquant_fp import zeroquant_fp_m1, zeroquant_fp_m2
from lowbit.rounding.ieee754 import down, nearest_even


def data():
    """Normal groups of 128 with log-normal scales of deviation 0.3."""
    g = torch.Generator().manual_seed(0)
    return torch.randn(32 * 1000, 128, generator=g) * torch.exp(0.3 * torch.randn(32 * 1000, 1, generator=g))


def test_figures_of_the_record():
    x = data()

    def error(q):
        return ((q.quantize(x).dequantize() - x).square().sum() / x.square().sum()).item()

    m1, m2 = (replace(q, blocks=Blocks((128,))) for q in (zeroquant_fp_m1, zeroquant_fp_m2))
    inner = m2.scale_quantizer
    assert error(quantizer("float4_e2m1fn g128 scale=float32")) == pytest.approx(0.0119, rel=0.01)
    assert error(m1) == pytest.approx(0.0156, rel=0.01)
    assert error(m2) == pytest.approx(0.0149, rel=0.01)
    assert error(replace(m2, scale_quantizer=replace(inner, rounding=nearest_even))) == pytest.approx(0.0136, rel=0.01)
    assert error(replace(m2, scale_quantizer=replace(inner, rounding=down))) == pytest.approx(0.0256, rel=0.01)


def test_ratios_within_a_compute_group_are_powers_of_two_and_nothing_clips():
    x = data()[:64]
    q = replace(zeroquant_fp_m2, blocks=Blocks((128,))).quantize(x)
    scale = q.grid.scale.dequantize().reshape(2, 32)
    ratio = (scale.amax(1, keepdim=True) / scale).log2()
    assert torch.equal(ratio, ratio.round())
    assert bool((x.abs().amax(1) <= 6 * scale.flatten() * (1 + 1e-6)).all())


def test_every_e2m1_number_times_two_to_the_n_is_one_of_e4m3_for_15_n():
    values = torch.tensor(float4_e2m1fn.values)
    exact = [n for n in range(-20, 20) if torch.equal(float8_e4m3fn.decode(float8_e4m3fn.encode(values * 2.0**n)), values * 2.0**n)]
    assert exact == list(range(-8, 7))
