"""The integer block formats: their scales, symmetric codes, and the QSNR that the paper's formula gives them."""

import math

import pytest
import torch

from lowbit.quantizers.int_vs_fp import qsnr_of_floats, qsnr_of_integers
from lowbit.quantizers.spec import quantizer


@pytest.mark.parametrize(("spec", "Q"), [("mxint8_symmetric", 127), ("mxint6", 31), ("mxint4", 7)])
def test_scales_are_powers_of_two_rounded_up(spec, Q):
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 2.0 ** torch.arange(-32, 32).unsqueeze(1)
    q = quantizer(spec).quantize(x)
    want = [2.0 ** math.ceil(math.log2(a / Q)) for a in x.abs().amax(1).double().tolist()]
    assert q.grid.scale.dequantize().flatten().tolist() == want
    assert bool(((x / q.grid.scale.dequantize()).abs() <= Q).all())


def test_the_most_negative_code_is_never_used():
    x = -torch.rand(16, 64, generator=torch.Generator().manual_seed(0))
    for spec in ("mxint4", "nvint4"):
        assert 8 not in quantizer(spec).quantize(x).codes


def test_nvint4_is_coarser_than_nvfp4_only_for_peaked_blocks():
    """The record's crossing: a crest factor of 2.04 to 2.39 sigma. Uniform blocks favour integers, t(3) blocks floats."""
    g = torch.Generator().manual_seed(0)
    flat, peaked = torch.rand(2000, 16, generator=g) - 0.5, torch.randn(2000, 16, generator=g) / torch.rand(2000, 16, generator=g)

    def error(spec, x):
        return (quantizer(spec).quantize(x).dequantize() - x).square().sum(1).div(x.square().sum(1)).mean()

    assert error("nvint4", flat) < 0.8 * error("nvfp4", flat) and error("nvint4", peaked) > 1.2 * error("nvfp4", peaked)


@pytest.mark.parametrize(
    ("bits", "element", "block", "rho", "crossing"),
    [(8, (3, 7, 448), 0, 1.5, 7.55), (6, (3, 1, 7.5), 0, 1.5, 1.96), (4, (1, 1, 6), 0, 1.5, 2.04), (4, (1, 1, 6), 16, 1.05, 2.39)],
)
def test_crossings_of_the_paper(bits, element, block, rho, crossing):
    """The crest factor below which integers are better, by bisection."""
    low, high = 1.0, 16.0
    for _ in range(60):
        k = (low + high) / 2
        better = qsnr_of_integers(bits, k, rho, block) > qsnr_of_floats(*element, k, rho, block)
        low, high = (k, high) if better else (low, k)
    assert low == pytest.approx(crossing, abs=0.01)


@pytest.mark.parametrize(
    ("spec", "Q"), [("mxint8_symmetric", 127), ("mxint6", 31), ("mxint4", 7), ("mxfp8 rceil", None), ("mxfp6 rceil", None)]
)
def test_formulas_against_measured_noise(spec, Q):
    """Normal blocks of 32, each with its own crest factor and stored scale: within half a dB."""
    x = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0))
    q = quantizer(spec).quantize(x)
    noise = (q.dequantize() - x).double().square().mean().item()
    crest = x.abs().amax(1).double()
    rho = q.grid.scale.dequantize().flatten().double() * q.grid.format.max / crest
    element = {"mxfp8 rceil": (3, 7, 448), "mxfp6 rceil": (3, 1, 7.5)}.get(spec)
    told = []
    for k, r in zip(crest.tolist()[:4000], rho.tolist(), strict=False):
        level = qsnr_of_integers(q.grid.format.bits, k, r, largest=Q) if element is None else qsnr_of_floats(*element, k, r)
        told.append(10 ** (-level / 10))
    assert -10 * math.log10(noise) == pytest.approx(-10 * math.log10(sum(told) / len(told)), abs=0.5)
