"""Integer quantizers: round, clip and scale, each one float32 or float16 step, as anyone would write them in numpy."""

import numpy as np
import pytest
import torch

from lowbit.quantizers.integers import QUANTIZERS
from lowbit.quantizers.spec import quantizer
from lowbit.testing.quantizers import sample

pytestmark = pytest.mark.usefixtures("every_backend")

X = sample((8, 128))


def float16_scales(largest, top):
    return (largest / np.float32(top)).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("bits", QUANTIZERS)
def test_rows(bits):
    x, top = X.numpy(), 2 ** (bits - 1) - 1
    scale = float16_scales(np.abs(x).max(-1, keepdims=True), top)
    codes = np.clip(np.round(x / scale), -top - 1, top)
    q = QUANTIZERS[bits].quantize(X)
    assert np.array_equal(q.dequantize().numpy(), codes.astype(np.float32) * scale)
    assert np.array_equal(q.codes.numpy(), codes.astype(np.int64) & 2**bits - 1)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [32, 128])
def test_asymmetric_groups(bits, group):
    """The zero point is found with the float32 scale, the codes with the stored one."""
    x = X.numpy().reshape(-1, group)
    levels = 2**bits - 1
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    scale = (high - low) / np.float32(levels)
    zero = np.clip(np.round(-low / scale), 0, levels)
    scale = scale.astype(np.float16).astype(np.float32)
    codes = np.clip(np.round(x / scale) + zero, 0, levels)
    q = quantizer(f"int{bits} g{group} asym").quantize(X)
    assert np.array_equal(q.codes.numpy().reshape(-1, group), codes)
    assert np.array_equal(q.dequantize().numpy().reshape(-1, group), (codes - zero).astype(np.float32) * scale)


def test_zero_is_exact_with_a_zero_point():
    x = X.clone()
    x[:, ::7] = 0.0
    assert bool((quantizer("int4 g32 asym").quantize(x).dequantize()[:, ::7] == 0).all())


def test_a_narrow_integer_is_symmetric():
    q = quantizer("int4_narrow g32")
    assert torch.equal(q.quantize(-X).dequantize(), -q.quantize(X).dequantize())
