"""HiFloat4 against its encoder written with plain numbers, its bytes, and the record's figures on numbers rounded to bfloat16."""

import math

import pytest
import torch

from lowbit.errors import ShapeError
from lowbit.quantizers.spec import quantizer

stats = pytest.importorskip("scipy.stats")
hif4 = quantizer("hifloat4")


def bf16(v):
    return torch.tensor(v, dtype=torch.float32).bfloat16().item()


def encode_block(x):
    """64 numbers by the record's text."""
    v64 = max(map(abs, x))
    unit = min(max(bf16(v64 * bf16(1 / 7)), 2.0**-48), 49152.0)
    e = math.floor(math.log2(unit))
    L1 = round(unit * 2.0 ** (2 - e)) * 2.0 ** (e - 2)
    r = bf16(1 / L1)
    out = []
    for i, v in enumerate(x):
        v8, v4 = (max(map(abs, x[i - i % n : i - i % n + n])) for n in (8, 4))
        e2 = int(v8 * r >= 4)
        e3 = int(v4 * r / 2**e2 >= 2)
        m = min(math.floor(abs(v) * r * 2.0 ** (2 - e2 - e3) + 0.5), 7)
        out.append(math.copysign(m / 4 * 2.0 ** (e2 + e3) * L1, v))
    return out


def test_every_number_is_that_of_the_definition():
    x = (torch.randn(40, 64, generator=torch.Generator().manual_seed(0)) * 2.0 ** torch.arange(-20, 20).unsqueeze(1)).bfloat16().float()
    want = torch.tensor([encode_block(row) for row in x.tolist()], dtype=torch.float32)
    assert torch.equal(hif4.quantize(x).dequantize(), want)


def test_it_takes_four_and_a_half_bits():
    assert hif4.nbytes((3, 128)) == 3 * 128 * 9 // 16
    with pytest.raises(ShapeError, match="not a multiple of the block 64"):
        hif4.nbytes((3, 96))


def test_figures_of_the_record():
    x = torch.randn(10_000, 64, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    t4 = torch.from_numpy(stats.t(4).rvs((10_000, 64), random_state=1)).float().bfloat16().float()

    def relative_error(spec, data):
        return ((quantizer(spec).quantize(data).dequantize() - data).square().mean() / data.square().mean()).item()

    for spec, normal, heavy in (("hifloat4", 0.00688, 0.00809), ("nvfp4", 0.00904, 0.00845), ("mxfp4", 0.0132, 0.0172)):
        assert relative_error(spec, x) == pytest.approx(normal, rel=0.01)
        assert relative_error(spec, t4) == pytest.approx(heavy, rel=0.06)  # the square of t(4) has no variance


def test_zeros_and_signs():
    x = torch.zeros(1, 64)
    assert (hif4.quantize(x).dequantize() == 0).all()
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(hif4.quantize(-x).dequantize(), -hif4.quantize(x).dequantize())


def test_hifloat5_by_its_formula_in_exact_steps():
    """The formulas of the format with eighths, written once more on float64; the scale maps the largest number to 7 as in HiFloat4."""
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(3)) * torch.exp2(torch.arange(-38.0, 12.0)).unsqueeze(1)
    y = quantizer("hifloat5").quantize(x).dequantize()
    seventh = torch.tensor(1 / 7).bfloat16().float()
    for row, got in zip(x, y, strict=True):
        want = (row.abs().max() * seventh).bfloat16().double().item()
        e = math.floor(math.log2(want))
        L1 = round(want / 2.0**e * 4) / 4 * 2.0**e
        r = torch.tensor(1 / L1).bfloat16().double()
        v8 = row.double().abs().reshape(8, 8).amax(1).repeat_interleave(8)
        v4 = row.double().abs().reshape(16, 4).amax(1).repeat_interleave(4)
        e2 = (v8 * r >= 4).double()
        e3 = (v4 * r / 2**e2 >= 2).double()
        m = (row.double().abs() * r / 2 ** (e2 + e3) * 8 + 0.5).floor().clamp(max=15) / 8
        assert torch.equal(got.double(), row.double().sign() * m * 2 ** (e2 + e3) * L1)
    assert quantizer("hifloat5").nbytes((1, 64)) == 44
