"""FP4 layouts: short tails take mantissa bits, long tails exponent bits."""

import torch

from lowbit.quantizers.spec import quantizer


def test_tails_decide():
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(64, 256, generator=g)
    chosen = [quantizer("hq_dit").quantize(x).grid.format.name for x in (normal.clamp(-1.5, 1.5), normal, normal.pow(5))]
    assert chosen[0] == "e1m2f" and chosen[2] == "e3m0f" and chosen[1] in ("float4_e2m1fn", "e1m2f")


def test_it_is_never_worse_than_e2m1():
    for power in (1, 3, 5):
        x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1)).pow(power)
        errors = [(quantizer(s).quantize(x).dequantize() - x).square().sum() for s in ("hq_dit", "float4_e2m1fn row mse")]
        assert errors[0] <= errors[1]
