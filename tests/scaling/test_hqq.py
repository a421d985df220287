"""HQQ: the offset moves so that a sparse norm of the error falls; the scale stays that of the range."""

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
