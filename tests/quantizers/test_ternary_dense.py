"""Ternary at 1.6 bits holds what ternary at two bits does."""

import torch

from lowbit.quantizers.spec import quantizer


def test_same_numbers_fewer_bytes():
    x = torch.randn(20, 100, generator=torch.Generator().manual_seed(0))
    dense, plain = quantizer("ternary_dense"), quantizer("ternary")
    assert torch.equal(dense.quantize(x).dequantize(), plain.quantize(x).dequantize())
    assert (dense.nbytes((20, 100)), plain.nbytes((20, 100))) == (404, 504)
