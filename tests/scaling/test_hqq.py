"""HQQ: the offset moves so that a sparse norm of the error falls; the scale stays that of the range."""

import numpy as np
import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.errors import UnsupportedError
from lowbit.formats.integer import INTEGERS
from lowbit.formats.normal_float import nf4
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.hqq import HQQ, hqq
from lowbit.scaling.minmax import minmax
from lowbit.testing.quantizers import sample


def test_the_norm_that_it_minimizes_falls():
    """The mean magnitude of the error, which picks the iterate, is never above that of the first one, plain rounding."""
    x = sample((64, 256))
    quantizers = [Scheme(INTEGERS["uint4"], Blocks((64,)), rule) for rule in (HQQ(iterations=1), hqq, minmax)]
    first, last, plain = ((q.quantize(x).dequantize() - x).abs().reshape(64, 4, 64).mean(-1) for q in quantizers)
    assert bool((last <= first + 1e-6).all())
    assert last.mean() < 0.97 * first.mean() and last.mean() < 0.97 * plain.mean()


def test_the_scale_is_that_of_the_range():
    x = sample((4, 64))
    assert torch.equal(hqq(x, INTEGERS["uint4"]).scale, (x.amax(-1) - x.amin(-1)) / 15)


@pytest.mark.parametrize("value", [0.0, -3.5, 7.0])
def test_a_constant_block_is_exact(value):
    x = torch.full((2, 64), value)
    assert torch.equal(Scheme(INTEGERS["uint4"], Blocks((64,)), hqq).quantize(x).dequantize(), x)


def test_other_formats_and_parameters_are_refused():
    with pytest.raises(UnsupportedError, match="hqq needs a format of consecutive integers, nf4_element is none; use int4 or uint4"):
        hqq(torch.ones(1, 4), nf4)
    with pytest.raises(UnsupportedError, match=r"p is in \(0, 1\], beta above 0, iterations at least 1"):
        HQQ(p=1.5)


def half_quadratic(w, levels, iterations=20, p=0.7, beta=10.0, growth=1.01):
    """Eq. 3-6 for one block in float64, with a zero point in code units: every iterate's zero and mean magnitude of the error."""
    s = (w.max() - w.min()) / (levels - 1)
    z = -w.min() / s
    found = []
    for _ in range(iterations):
        q = np.clip(np.rint(w / s + z), 0, levels - 1)
        e = w - s * (q - z)
        found.append((z, np.abs(e).mean()))
        shrunk = np.sign(e) * np.maximum(np.abs(e) - np.maximum(np.abs(e), 1e-20) ** (p - 1) / beta, 0)
        z = (q - (w - shrunk) / s).mean()
        beta *= growth
    return s, found


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_offset_is_that_of_the_half_quadratic_iteration(bits):
    """Of an iterate as good as the best one; a near-tie of a code may fall otherwise in float32, in one block of twenty at most."""
    x = sample((60, 64), seed=bits)
    found = hqq(x, INTEGERS[f"uint{bits}"])
    assert found.zero is None and found.offset is not None
    equal = 0
    for block, scale, offset in zip(x.double().numpy(), found.scale, found.offset, strict=True):
        s, iterates = half_quadratic(block, 2**bits)
        least = min(size for _, size in iterates)
        assert abs(float(scale) - s) <= 1e-6 * s
        equal += min(abs(float(offset) + zero * s) for zero, size in iterates if size <= 1.001 * least) <= 1e-4 * s
        q = np.clip(np.rint((block - float(offset)) / float(scale)), 0, 2**bits - 1)
        error = np.abs(block - (q * float(scale) + float(offset))).mean()
        assert error <= least * 1.001
    assert equal >= 57


def test_every_block_keeps_its_own_best_iterate():
    """The released code stops all blocks at the first iteration without a gain; no block here does worse than that."""
    x = sample((60, 64), seed=1)
    found = hqq(x, INTEGERS["uint3"])
    better = 0
    for block, scale, offset in zip(x.double().numpy(), found.scale, found.offset, strict=True):
        _, iterates = half_quadratic(block, 8)
        sizes = [size for _, size in iterates]
        stop = next((i for i in range(1, 20) if sizes[i] >= sizes[i - 1]), 20)
        q = np.clip(np.rint((block - float(offset)) / float(scale)), 0, 7)
        error = np.abs(block - (q * float(scale) + float(offset))).mean()
        assert error <= sizes[0] * 1.0001
        assert error <= sizes[stop - 1] * 1.001
        better += error < 0.999 * sizes[stop - 1]
    assert better > 0


def test_signed_and_unsigned_formats_have_the_same_grid():
    x = sample((8, 64))
    signed, unsigned = (hqq(x, INTEGERS[name]) for name in ("int4", "uint4"))
    assert torch.equal(signed.scale, unsigned.scale)
    torch.testing.assert_close(
        (signed.offset / signed.scale).remainder(1), (unsigned.offset / unsigned.scale).remainder(1), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_block_that_is_not_finite_has_a_nan_scale(bad):
    x = sample((2, 64))
    x[1, 3] = bad
    found = hqq(x, INTEGERS["uint4"])
    assert torch.isfinite(found.scale).tolist() == [True, False]
    assert torch.isnan(found.scale[1])
    assert torch.equal(found.offset[:1], hqq(x[:1], INTEGERS["uint4"]).offset)
