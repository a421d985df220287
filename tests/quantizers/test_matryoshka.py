"""Slices against the formula in exact numbers, and the record's count of codes that truncation gets wrong."""

import math
from fractions import Fraction

import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.errors import UnsupportedError
from lowbit.formats.integer import INTEGERS
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.matryoshka import joined, slice_codes, slice_rest, slice_tensor, sliced
from lowbit.quantizers.spec import quantizer

CODES = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("saturate", [True, False])
def test_every_code_and_width(bits, saturate):
    want = [math.floor(Fraction(q, 2 ** (8 - bits)) + Fraction(1, 2)) for q in range(256)]
    want = [min(t, 2**bits - 1) for t in want] if saturate else want
    assert slice_codes(CODES.int(), bits, saturate=saturate).tolist() == want
    assert sliced(CODES, bits, saturate=saturate).tolist() == [t * 2 ** (8 - bits) for t in want]


def test_truncation_differs_in_96_codes_of_2_bits():
    assert int((slice_codes(CODES, 2) != CODES >> 6).sum()) == 96


def test_a_width_beyond_the_master_is_named():
    with pytest.raises(UnsupportedError, match="9 bits out of codes of 8 bits"):
        slice_codes(CODES, 9)


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_slices_are_the_upper_bits_of_the_packed_master(bits):
    """Byte by byte: the bytes of the int8 tensor, rounded to their upper bits, fill the bytes of the sliced one."""
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    master = quantizer("int8 row").quantize(x)
    small = slice_tensor(master, bits)
    data = [(byte ^ 0x80) for byte in master.packed()["codes"].tolist()]
    tops = [min((byte + (1 << 7 - bits)) >> 8 - bits, 2**bits - 1) ^ 1 << bits - 1 for byte in data]
    per = 8 // bits
    want = [sum(t << bits * i for i, t in enumerate(tops[k : k + per])) for k in range(0, len(tops), per)]
    assert small.packed()["codes"].tolist() == want
    back = quantizer(f"int{bits} row scale=float32").unpack(small.packed(), (4, 32))
    assert torch.equal(back.dequantize(), small.dequantize())


@pytest.mark.parametrize("spec", ["int8 g16", "int8 g16 asym", "int6 row"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_sliced_tensor_is_the_records_formula(spec, bits):
    """w = s * S(q) - s * z with the scale and zero point of the master."""
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) + 0.3
    q = quantizer(spec).quantize(x)
    m = q.grid.format.bits
    codes, zero = q.codes.int(), 2.0 ** (m - 1)
    if q.grid.zero is None:
        codes = codes ^ 1 << m - 1
    else:
        zero = q.grid.blocks.expand(q.grid.zero, (4, 32)).double()
    s = q.grid.blocks.expand(q.grid.scale.dequantize(), (4, 32)).double()
    want = s * (sliced(codes, bits, m).double() - zero)
    assert torch.allclose(slice_tensor(q, bits).dequantize().double(), want, rtol=1e-5, atol=1e-6)


def test_other_formats_have_no_slices():
    with pytest.raises(UnsupportedError, match="slices of float4_e2m1fn; it takes int8"):
        slice_tensor(quantizer("nvfp4").quantize(torch.randn(1, 16)), 2)


@pytest.mark.parametrize("name, dtype", [("int8", torch.uint8), ("uint8", torch.uint8), ("int6", torch.uint8)])
def test_slice_and_rest_are_the_code_again(name, dtype):
    """Every code, every width; the rest fits into one bit more than the slice leaves out, and into no fewer."""
    fmt = INTEGERS[name]
    codes = torch.arange(2**fmt.bits, dtype=dtype)[None]
    q = QTensor(codes, Grid(fmt, Blocks((0,)), codes.shape, scale=torch.ones(1, 1), zero=torch.zeros(1, 1) if name == "uint8" else None))
    for bits in range(1, fmt.bits):
        rest = slice_rest(q, bits)
        assert 2 ** (fmt.bits - bits) <= int(rest.max()) < 2 ** (fmt.bits - bits + 1)
        again = joined(slice_tensor(q, bits).codes, rest, bits, fmt.bits, signed=name != "uint8")
        assert torch.equal(again, codes)
