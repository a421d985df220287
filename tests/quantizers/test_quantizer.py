"""The contract, and that the checks catch a quantizer that breaks it."""

import dataclasses

import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.formats.integer import INTEGERS
from lowbit.quantizers.grid import QTensor
from lowbit.quantizers.quantizer import bits_per_element
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import quantizer
from lowbit.scaling.absmax import absmax
from lowbit.testing.quantizers import check_quantizer, digest, rows_are_independent, sample


@pytest.mark.parametrize(
    "spec, shape, bits",
    [("mxfp4", (32, 64), 4.25), ("nvfp4", (64, 64), 4.5 + 32 / 4096), ("int4 g64", (64, 64), 4.25), ("int8 cast", (3, 3), 8.0)],
)
def test_true_bits_an_element(spec, shape, bits):
    assert bits_per_element(quantizer(spec), shape) == bits


class Miscounts(Scheme):
    def nbytes(self, shape):
        return super().nbytes(shape) - 1


class Sticky(Scheme):
    """Zeros do not come out as zeros."""

    def quantize(self, x, importance=None, noise=None):
        q = super().quantize(x, importance, noise)
        grid = dataclasses.replace(q.grid, scale=torch.ones_like(q.grid.scale))
        return QTensor(q.codes.clamp(min=1), grid)


class Forgets(Scheme):
    """NaN is taken for a number."""

    def quantize(self, x, importance=None, noise=None):
        return super().quantize(x.nan_to_num(0.0, 0.0, 0.0), importance, noise)


class Crosses(Scheme):
    """The first element is quantized with the sum of all."""

    def quantize(self, x, importance=None, noise=None):
        y = x.float().clone()
        y.view(-1)[:1] += 0.01 * y.abs().sum()
        return super().quantize(y, importance, noise)


class LosesAPart(Scheme):
    def unpack(self, parts, shape):
        q = super().unpack(parts, shape)
        return QTensor(q.codes, dataclasses.replace(q.grid, scale=q.grid.scale * 2))


@pytest.mark.parametrize(
    "kind, message",
    [
        (Miscounts, r"nbytes says \d+ and \d+, the parts have \d+"),
        (LosesAPart, "the unpacked tensor decodes to other numbers"),
        (Sticky, "zeros decode to 1"),
        (Forgets, "nan decodes to .*; its block should be NaN"),
        (Crosses, r"rows slice\(.*\) alone are quantized otherwise than with the others"),
    ],
)
def test_the_checks_find(kind, message):
    broken = kind(INTEGERS["uint4"] if kind is Sticky else INTEGERS["int4"], Blocks((32,)), absmax)
    with pytest.raises(AssertionError, match=message):
        check_quantizer(broken, ((4, 64),))


def test_shapes_that_do_not_fit_are_left_out_but_one_must():
    check_quantizer(quantizer("int4 g64"), ((4, 60), (4, 64)))
    with pytest.raises(AssertionError, match="takes none of the shapes"):
        check_quantizer(quantizer("int4 g64"), ((4, 60),))


@pytest.mark.parametrize(
    "spec, independent",
    [
        ("int4", True),
        ("mxfp4", True),
        ("nvfp4", False),
        ("int4 tensor", False),
        ("nf4", False),
        ("fp8_tile", False),
        ("int8 cast", True),
        ("int4 flat64", False),
    ],
)
def test_which_rows_are_independent(spec, independent):
    assert rows_are_independent(quantizer(spec)) is independent


def test_a_digest_sees_every_byte():
    q = quantizer("nvfp4").quantize(sample((4, 64)))
    other = QTensor(q.codes.clone(), q.grid)
    assert digest(q) == digest(other)
    other.codes[3, 63] ^= 1
    assert digest(q) != digest(other)
