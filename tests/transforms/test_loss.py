"""The loss of an edge, by hand."""

import pytest
import torch

from lowbit.quantizers.spec import quantizer
from lowbit.transforms.loss import output_loss
from lowbit.transforms.transform import Edge, Scaled


def test_weights_inputs_and_the_moved_bias_count():
    draw = torch.Generator().manual_seed(3)
    W, X = torch.randn(4, 16, generator=draw), torch.randn(20, 16, generator=draw)
    q, a = quantizer("int4 g16"), quantizer("int8 row")
    s, z = torch.rand(16, generator=draw) + 0.5, torch.randn(16, generator=draw)
    x = a.quantize((X - z) / s).dequantize()
    expected = 0.0
    for weight in (W, 2 * W):
        out = x @ q.quantize(weight * s).dequantize().mT + weight @ z
        expected += float((out - X @ weight.mT).square().sum())
    edge = Edge("e", (W, 2 * W), (q, q), a)
    assert output_loss(edge, X, Scaled(s, z)) == pytest.approx(expected, rel=1e-3)
