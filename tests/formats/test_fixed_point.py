"""Fixed point: integers times a power of two."""

from fractions import Fraction

import pytest
import torch

from lowbit import catalog
from lowbit.errors import UnsupportedError
from lowbit.formats.fixed_point import fixed_point, from_name, q1_6
from lowbit.rounding.ieee754 import nearest_even, up
from lowbit.testing.exact import ExactFormat
from lowbit.testing.formats import probes


@pytest.mark.parametrize(
    "integer_bits, fraction_bits, signed", [(1, 6, True), (3, 4, True), (2, 6, False), (0, 7, True), (0, 3, False), (4, 8, True)]
)
def test_numbers_and_rounding(integer_bits, fraction_bits, signed):
    fmt = fixed_point(integer_bits, fraction_bits, signed=signed)
    bits = signed + integer_bits + fraction_bits
    numbers = [Fraction(k - 2**bits if signed and k >= 2 ** (bits - 1) else k, 2**fraction_bits) for k in range(2**bits)]
    assert [Fraction(v) for v in fmt.values] == numbers
    line = ExactFormat([float(v) for v in numbers], odd=[bool((v * 2**fraction_bits) % 2) for v in numbers])
    y = probes(fmt)[:3000]
    for rule in (nearest_even, up):
        assert fmt.encode(y, rule).tolist() == [line.encode(v, rule.name) for v in y.tolist()]


def test_the_element_of_mxint8():
    """OCP MX, 5.3.4: 8 bits, steps of 1/64, largest number 1 63/64."""
    assert (q1_6.max, q1_6.min, q1_6.min_positive, q1_6.top) == (127 / 64, -2.0, 1 / 64, 127 / 64)
    assert catalog.find("format", "mxint8_element") is q1_6


def test_names():
    assert from_name("uq2.6") == fixed_point(2, 6, signed=False) and from_name("q3.4") == fixed_point(3, 4)
    assert from_name("q3") is None
    assert fixed_point(2, 6, signed=False).name == "uq2.6"


@pytest.mark.parametrize("name, bits", [("q9.9", 19), ("uq0.0", 0), ("uq9.8", 17)])
def test_too_many_or_no_bits(name, bits):
    with pytest.raises(UnsupportedError, match=f"{name} has {bits} bits; a table holds 1 to 16"):
        from_name(name)


def test_sixteen_bits():
    fmt = from_name("q0.15")
    assert fmt.decode(fmt.encode(torch.tensor([0.3, -1.0, 1.0]))).tolist() == [round(0.3 * 2**15) / 2**15, -1.0, 1 - 2.0**-15]
