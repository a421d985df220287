"""NVFP4 against rational arithmetic in which every float32 step is rounded exactly, in the order that the file's source line states."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn
from lowbit.quantizers.nvfp4 import nvfp4
from lowbit.testing.exact import ExactFormat, to_float32

pytestmark = pytest.mark.usefixtures("every_backend")

ELEMENT = ExactFormat(float4_e2m1fn.values)
SCALE = ExactFormat(float8_e4m3fn.values)


def reference(x):
    """s = amax / 6, t = max(s) / 448, s8 = e4m3(s / t), scale = s8 * t, codes of x / scale; each step one float32 operation."""
    blocks = x.reshape(-1, 16)
    s = [to_float32(Fraction(float(np.abs(b).max())) / 6) for b in blocks]
    t = to_float32(Fraction(max(s)) / 448)
    s8 = [SCALE.encode(to_float32(Fraction(v) / Fraction(t)) if t else 0.0) for v in s]
    codes, decoded = [], []
    for block, code in zip(blocks, s8, strict=True):
        scale = to_float32(Fraction(float8_e4m3fn.values[code]) * Fraction(t))
        for v in block.tolist():
            y = math.copysign(to_float32(abs(Fraction(v)) / Fraction(scale)), v) if scale else 0.0
            codes.append(ELEMENT.encode(y))
            value = float4_e2m1fn.values[codes[-1]]
            decoded.append(math.copysign(abs(to_float32(Fraction(value) * Fraction(scale))), value))
    return t, s8, codes, decoded


def tensors():
    g = np.random.default_rng(1)
    normal = g.normal(size=(8, 64))
    spread = normal * 10.0 ** g.integers(-6, 3, (8, 4)).repeat(16, -1)
    powers = (2.0 ** g.integers(-8, 4, (8, 64)) * g.choice([-1, 1], (8, 64))).astype(np.float32)
    with_zeros = normal.copy()
    with_zeros[::2, 16:32] = 0.0
    top = np.finfo(np.float32).max
    return {
        "normal": normal,
        "spread": spread,
        "powers of two": powers,
        "one ulp above": np.nextafter(powers, np.float32(np.inf)),
        "one ulp below": np.nextafter(powers, np.float32(-np.inf)),
        "zero blocks": with_zeros,
        "all zero": np.where(g.random((8, 64)) < 0.5, -0.0, 0.0),
        "tiny": normal * 2.0**-126,
        "subnormal": normal * 2.0**-146,
        "a scale that underflows": np.where(np.arange(64) < 16, 1e-30, normal * 1e10),
        "huge": g.uniform(-1, 1, (8, 64)) * top,
        "largest": np.full((8, 64), top),
        "single": np.where(np.arange(512).reshape(8, 64) == 77, 3.0, 0.0),
    }


@pytest.mark.parametrize("kind", tensors())
def test_every_block_is_that_of_rational_arithmetic(kind):
    x = tensors()[kind].astype(np.float32)
    found = nvfp4.quantize(torch.from_numpy(x))
    t, s8, codes, decoded = reference(x)
    assert found.grid.scale.grid.scale.item() == t
    assert found.grid.scale.codes.flatten().tolist() == s8
    assert found.codes.flatten().tolist() == codes
    got = found.dequantize().numpy().flatten()
    assert np.array_equal(got.view(np.uint32), np.array(decoded, dtype=np.float32).view(np.uint32))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_makes_the_tensor_nan(bad):
    """The scale of the whole tensor depends on every block, so there is no finite one left."""
    x = torch.ones(4, 32)
    x[2, 5] = bad
    assert bool(nvfp4.quantize(x).dequantize().isnan().all())


def test_true_bytes():
    """4 bits an element, 8 bits a block of 16, 4 bytes a tensor."""
    assert nvfp4.nbytes((64, 256)) == 64 * 256 // 2 + 64 * 16 + 4
