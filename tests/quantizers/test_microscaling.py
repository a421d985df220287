"""MX blocks against rational arithmetic in which every float32 step is rounded exactly: all elements, all four scale rules."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.quantizers.microscaling import mxfp4, mxfp8
from lowbit.quantizers.spec import quantizer
from lowbit.testing.exact import ExactFormat, to_float32

pytestmark = pytest.mark.usefixtures("every_backend")

NAMES = ["mxfp8", "mxfp8_e5m2", "mxfp6", "mxfp6_e3m2", "mxfp4", "mxint8"]
RULES = ["floor", "ceil", "even", "rceil"]


def hard_blocks():
    """Blocks of 32: random ones over all binades, around powers of two, tiny, subnormal, huge, zero, single, NaN and Inf."""
    g = np.random.default_rng(0)
    kinds = [g.normal(size=32) * s for s in (1.0, 1e-3, 1e5, 2.0**-126, 2.0**-124, 2.0**-133, 1e-44, 2.0**100, 2.0**118)]
    kinds += [g.normal(size=32) * 2.0**k for k in range(-128, -118)]
    powers = 2.0 ** g.integers(-6, 3, 32) * g.choice([-1, 1], 32)
    for scale in (1.0, 2.0**-120, 2.0**120):
        p = (powers * scale).astype(np.float32)
        kinds += [p, np.nextafter(p, np.float32(0)), np.nextafter(p, np.float32(np.inf) * np.sign(p))]
    top = np.finfo(np.float32).max
    kinds += [g.uniform(-1, 1, 32) * top, np.full(32, top), np.full(32, -top), np.where(np.arange(32) == 5, top, g.normal(size=32))]
    for m in (6.0, 7.0, 7.5, 448.0, 464.0, 480.0, 1.75, 1.984375, 57344.0, 61440.0, 28.0, 30.0):
        block = np.full(32, m / 3, dtype=np.float32)
        block[7] = m
        kinds += [block, np.nextafter(block, np.float32(0)), np.nextafter(block, np.float32(np.inf))]
    kinds += [
        np.zeros(32),
        np.where(np.arange(32) % 2, -0.0, 0.0),
        np.where(np.arange(32) == 3, 1e-45, 0.0),
        np.where(np.arange(32) == 9, -5.0, 0.0),
    ]
    with np.errstate(over="ignore", under="ignore"):
        return np.stack(kinds).astype(np.float32)


def log2_floor(value):
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if Fraction(2) ** e <= value else e - 1


def scale_exponent(rule, a, fmt):
    """The rules in words. floor: the exponent of the maximum less that of the largest number m. ceil: the exponent rounded up. even: the
    maximum is first rounded, half up, to the mantissa of m. rceil: the least exponent with which m covers the maximum."""
    m = Fraction(fmt.top)
    e = log2_floor(a) - log2_floor(m)
    if rule == "ceil":
        e += a != Fraction(2) ** log2_floor(a)
    if rule == "even":
        mantissa = {"float8_e4m3fn": 3, "float8_e5m2": 2, "float6_e2m3fn": 3, "float6_e3m2fn": 2, "float4_e2m1fn": 1, "q1.6": 6}[fmt.name]
        e += a / Fraction(2) ** log2_floor(a) >= 2 - Fraction(1, 2 ** (mantissa + 1))
    if rule == "rceil":
        e = next(k for k in range(-300, 300) if a <= m * Fraction(2) ** k)
    return min(127, max(-127, e))


def reference(block, fmt, rule):
    """Scale code, codes and decoded numbers of one block, or None for a block that is NaN."""
    line = ExactFormat(fmt.values, fmt.odd, fmt.reserved)
    exact = [Fraction(float(v)) for v in block]
    a = max(map(abs, exact))
    e = -127 if a == 0 else scale_exponent(rule, a, fmt)
    codes = [line.encode(math.copysign(to_float32(abs(x) / Fraction(2) ** e), v)) for x, v in zip(exact, block, strict=True)]
    decoded = [math.copysign(abs(to_float32(Fraction(fmt.values[c]) * Fraction(2) ** e)), fmt.values[c]) for c in codes]
    return e + 127, codes, decoded


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_that_of_rational_arithmetic(name, rule):
    q = quantizer(f"{name} {rule}")
    blocks = hard_blocks()
    found = q.quantize(torch.from_numpy(blocks))
    numbers = found.dequantize().numpy()
    for i, block in enumerate(blocks):
        scale, codes, decoded = reference(block, q.format, rule)
        assert found.grid.scale.codes[i].tolist() == [scale], (i, block)
        assert found.codes[i].tolist() == codes, (i, block)
        assert np.array_equal(numbers[i].view(np.uint32), np.array(decoded, dtype=np.float32).view(np.uint32)), (i, block)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_a_block_that_is_not_finite_is_nan_and_leaves_the_others(rule, bad):
    x = torch.from_numpy(hard_blocks()[:4].reshape(2, 64).copy())
    q = quantizer(f"mxfp4 {rule}")
    clean = q.quantize(x).dequantize()
    x[1, 40] = bad
    found = q.quantize(x)
    assert found.grid.scale.codes.tolist()[1][1] == 255  # NaN in e8m0
    got = found.dequantize()
    assert bool(got[1, 32:].isnan().all())
    assert torch.equal(got[0], clean[0]) and torch.equal(got[1, :32], clean[1, :32])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", RULES)
def test_quantizing_twice_changes_nothing(name, rule):
    """Powers of two divide exactly, so what was decoded is on its own grid again; but not where an element reaches -2 = -m - 1/64
    under floor: the maximum is then in the next binade."""
    x = torch.from_numpy(hard_blocks())
    x = x[(x.abs().amax(-1) < 2.0**120) & (x.abs().amax(-1) > 2.0**-100)]
    q = quantizer(f"{name} {rule}")
    once = q.quantize(x).dequantize()
    if name == "mxint8" and rule == "floor":
        once = once[(once / q.grid(x).scale.dequantize().repeat_interleave(32, -1)).amin(-1) > -2]
    assert len(once) > 20 and torch.equal(q.quantize(once).dequantize(), once)


@pytest.mark.parametrize("name, bits", [("mxfp8", 8.25), ("mxfp6", 6.25), ("mxfp4", 4.25), ("mxint8", 8.25)])
def test_true_bits(name, bits):
    assert 8 * catalog.find("quantizer", name).nbytes((64, 64)) / 4096 == bits


def test_names():
    assert catalog.find("quantizer", "mxfp8_e4m3") is mxfp8 and mxfp4.scaling == catalog.find("scaling", "floor")
