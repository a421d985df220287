"""Integers: the codes are two's complement, the rounding is that of Python's own integers and of ml_dtypes."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.formats.integer import INTEGERS, int4, int8, integer

WIDTHS = range(1, 9)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_twos_complement(bits, signed):
    fmt = INTEGERS[f"{'' if signed else 'u'}int{bits}"]
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    numbers = torch.arange(low, high + 1)
    codes = fmt.encode(numbers.float())
    assert torch.equal(codes.long(), numbers & 2**bits - 1)
    assert torch.equal(fmt.decode(codes), numbers.float())
    assert (fmt.min, fmt.max, fmt.bits, fmt.levels) == (low, high, bits, 2**bits)


def expected(y, low, high, mode):
    """Rounding with rational numbers and Python's floor, then clipping; no table."""
    if math.isnan(y):
        return 0
    if math.isinf(y):
        return high if y > 0 else low
    exact = Fraction(y)
    if exact <= low or exact >= high:
        return low if exact <= low else high
    below = math.floor(exact)
    part = exact - below
    if part == 0:
        return below
    match mode:
        case "nearest_even":
            rises = part > Fraction(1, 2) or (part == Fraction(1, 2) and below % 2 == 1)
        case "nearest_away":
            rises = part > Fraction(1, 2) or (part == Fraction(1, 2) and exact > 0)
        case "toward_zero":
            rises = exact < 0
        case "away_from_zero":
            rises = exact > 0
        case "up" | "down":
            rises = mode == "up"
        case "to_odd":
            rises = below % 2 == 0
    return below + rises


@pytest.mark.parametrize("mode", ["nearest_even", "nearest_away", "toward_zero", "away_from_zero", "up", "down", "to_odd"])
@pytest.mark.parametrize("name", INTEGERS)
def test_rounding_is_that_of_rational_numbers(name, mode):
    fmt = INTEGERS[name]
    quarters = np.arange(4 * fmt.min - 9, 4 * fmt.max + 10, dtype=np.float32) / 4
    y = np.concatenate([quarters, np.nextafter(quarters, np.float32(np.inf)), np.nextafter(quarters, np.float32(-np.inf))])
    y = np.concatenate([y, np.array([1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan, 0.0, -0.0], dtype=np.float32)])
    got = fmt.decode(fmt.encode(torch.from_numpy(y), catalog.find("rounding", mode)))
    assert got.tolist() == [expected(float(v), int(fmt.min), int(fmt.max), mode) for v in y]


@pytest.mark.parametrize("name", ["int2", "int4", "uint2", "uint4"])
def test_ml_dtypes_has_the_same_numbers(name):
    """Its conversion wraps around outside the range; only the codes are compared."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    fmt = INTEGERS[name]
    want = np.arange(fmt.levels, dtype=np.uint8).view(getattr(ml_dtypes, name)).astype(np.float32)
    assert fmt.decode(torch.arange(fmt.levels)).tolist() == want.tolist()


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_narrow_integer_never_produces_its_lowest_code(bits):
    fmt = INTEGERS[f"int{bits}_narrow"]
    lowest = 2 ** (bits - 1)
    codes = fmt.encode(torch.linspace(-2.0 * lowest, 2.0 * lowest, 1001))
    assert lowest not in codes.tolist()
    assert (fmt.min, fmt.max, fmt.levels) == (1 - lowest, lowest - 1, 2**bits - 1)
    assert fmt.decode(torch.tensor([lowest])).tolist() == [-lowest]  # a file of another library may hold it


def test_absmax_maps_to_the_largest_positive_number():
    assert [INTEGERS[f"int{bits}"].top for bits in WIDTHS] == [1.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0]
    assert [INTEGERS[f"uint{bits}"].top for bits in WIDTHS] == [2.0**bits - 1 for bits in WIDTHS]


def test_one_bit_holds_no_positive_number():
    assert INTEGERS["int1"].values == (0.0, -1.0) and INTEGERS["int1"].min_positive == math.inf


def test_parity_is_that_of_the_number():
    """-1 has the code 15, -2 the code 14; a tie between them goes to -2."""
    assert int4.decode(int4.encode(torch.tensor([-1.5, -2.5, 1.5, 2.5]))).tolist() == [-2.0, -2.0, 2.0, 2.0]


def test_int8_rounds_as_torch():
    x = torch.linspace(-150, 150, 12001)
    assert torch.equal(int8.encode(x).view(torch.int8), x.round().clamp(-128, 127).to(torch.int8))


def test_equal_definitions_are_equal():
    assert integer(4) == int4 and integer(4, narrow=True) != int4
