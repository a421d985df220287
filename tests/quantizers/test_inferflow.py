"""Eleven levels lie between eight and sixteen; the true rate counts scale and base."""

import pytest
import torch

from lowbit.quantizers.spec import quantizer


def test_errors_go_as_the_square_of_the_step():
    x = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))

    def error(spec):
        return (quantizer(spec).quantize(x).dequantize() - x).square().mean().item()

    eight = error("uint3 g64 range")
    assert error("inferflow") / eight == pytest.approx(0.49, rel=0.05)
    assert error("uint4 g64 range") / eight == pytest.approx(0.218, rel=0.05)


def test_codes_are_the_papers_formula_and_four_bits_a_weight():
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    q = quantizer("inferflow").quantize(x)
    base, scale = (v.dequantize() for v in (q.grid.offset, q.grid.scale))
    assert torch.equal(base, x.amin(1, keepdim=True).half().float())
    assert torch.equal(q.codes, ((x - base) / scale + 0.5).floor().clamp(0, 10).to(torch.uint8))
    assert quantizer("inferflow").nbytes((16, 64)) == 16 * 32
