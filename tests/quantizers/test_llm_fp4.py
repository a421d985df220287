"""LLM-FP4: channel scales differ by 1, 1/2, 1/4 or 1/8 and help where channels differ."""

import torch

from lowbit.quantizers.spec import quantizer


def test_channel_scales_are_powers_of_two_under_one():
    g = torch.Generator().manual_seed(0)
    X = torch.randn(256, 48, generator=g) * torch.exp2(torch.arange(48) / 12.0)
    q = quantizer("llm_fp4").quantize(X)
    steps = (q.grid.scale.dequantize() / q.grid.scale.dequantize().max()).log2().flatten()
    assert set(steps.tolist()) == {0.0, -1.0, -2.0, -3.0}
    wanted = (X.abs().amax(0) / X.abs().max()).log2().clamp(min=-3).round()
    assert torch.equal(steps, wanted)


def test_folding_the_shift_into_the_weight_is_exact_and_helps():
    g = torch.Generator().manual_seed(1)
    X = torch.randn(256, 64, generator=g) * torch.exp2(-4 * torch.rand(64, generator=g))
    y = quantizer("llm_fp4").quantize(X).dequantize()
    tensor = quantizer("float4_e2m1fn tensor scale=float32").quantize(X).dequantize()
    assert (y - X).square().mean() < 0.6 * (tensor - X).square().mean()
