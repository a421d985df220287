"""LLM-FP4: channel scales differ by 1, 1/2, 1/4 or 1/8, help where channels differ, and the search finds nothing worse."""

import torch

from lowbit.quantizers.spec import quantizer


def channels(size, seed=0):
    return torch.randn(256, len(size), generator=torch.Generator().manual_seed(seed)) * size


def error(q, x):
    return (q.quantize(x).dequantize() - x).square().mean().item()


def test_channel_scales_are_powers_of_two_under_one():
    X = channels(torch.exp2(torch.arange(48) / 12.0))
    q = quantizer("llm_fp4_start").quantize(X)
    steps = (q.grid.scale.dequantize() / q.grid.scale.dequantize().max()).log2().flatten()
    assert set(steps.tolist()) == {0.0, -1.0, -2.0, -3.0}
    wanted = (X.abs().amax(0) / X.abs().max()).log2().clamp(min=-3).round()
    assert torch.equal(steps, wanted)


def test_one_scale_a_channel_beats_one_a_tensor():
    X = channels(torch.exp2(-4 * torch.rand(64, generator=torch.Generator().manual_seed(1))))
    assert error(quantizer("llm_fp4_start"), X) < 0.6 * error(quantizer("float4_e2m1fn tensor scale=float32"), X)


def test_folding_the_shifts_into_the_weight_is_exact():
    """The codes times 2**-n W in float16 are the codes times 2**-n times W, bit for bit: one scale a tensor is left."""
    X = channels(torch.exp2(-3 * torch.rand(64, generator=torch.Generator().manual_seed(2))))
    q = quantizer("llm_fp4_start").quantize(X)
    n, rho, values = q.grid.scale.codes.flatten().double(), q.grid.scale.grid.scale, q.grid.format.decode(q.codes)
    assert len(set(n.tolist())) == 4 and torch.equal(q.dequantize(), values * (rho * 2.0**-n).float())
    W = torch.randn(64, generator=torch.Generator().manual_seed(3)).half().double()
    assert torch.equal(values.double() * (W * 2.0**-n).half().double(), values.double() * 2.0**-n * W)


def test_the_search_finds_the_least_error():
    X = channels(torch.exp2(-4 * torch.rand(64, generator=torch.Generator().manual_seed(1))))
    best = quantizer("llm_fp4")
    errors = [error(option, X) for option in best.options]
    assert error(best, X) == min(errors) < 0.97 * error(quantizer("llm_fp4_start"), X)
    few = channels(torch.ones(64)).clamp(-1, 1)  # equal channels without tails want mantissa bits
    assert best.quantize(few).grid.format.name == "e1m2f"
    wide = channels(torch.exp2(-7 * torch.rand(64, generator=torch.Generator().manual_seed(4))))
    assert best.quantize(wide).grid.format.name != "e1m2f"
