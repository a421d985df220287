"""Four over six: the figure on normal data, beside NVFP4's, and a block where each choice is exact."""

import pytest
import torch

from lowbit.quantizers.spec import quantizer


def relative_error(spec, x):
    return ((quantizer(spec).quantize(x).dequantize() - x).square().mean() / x.square().mean()).item()


def test_figures():
    x = torch.randn(600_000, generator=torch.Generator().manual_seed(0)).reshape(-1, 1000 * 16 // 10)
    assert relative_error("nvfp4", x) == pytest.approx(0.00904, rel=0.02)
    assert relative_error("nvfp4_four_over_six", x) == pytest.approx(0.0077, rel=0.02)
    assert relative_error("nvfp4_four_over_six_256", x) == pytest.approx(0.0077, rel=0.02)


def test_each_block_takes_the_better_of_two():
    x = torch.zeros(2, 16)
    x[0, :3], x[1, :3] = torch.tensor([6.0, 4.0, 0.5]), torch.tensor([4.0, 3.0, 2.0])
    q = quantizer("float4_e2m1fn g16 four_over_six scale=float32").quantize(x)
    assert torch.equal(q.dequantize(), x) and q.grid.scale.flatten().tolist() == [1.0, 1.0]
    assert quantizer("float4_e2m1fn g16 scale=float32").quantize(x[1]).dequantize()[1] != 3.0
