"""The four rules for power-of-two scales against rational numbers, at and one ulp around every power of two and every boundary."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.scaling.power_of_two import ceil, even, exponent, floor, rceil, two_to_the

ELEMENTS = ["float8_e4m3fn", "float8_e5m2", "float6_e3m2fn", "float6_e2m3fn", "float4_e2m1fn", "q1.6", "int8", "int4"]
RULES = {"floor": floor, "ceil": ceil, "even": even, "rceil": rceil}


def log2_floor(value):
    """floor(log2 value) of a positive rational number, by integers only."""
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if Fraction(2) ** e <= value else e - 1


def exact(rule, a, fmt):
    """The exponent by the definition of each rule."""
    a, m = Fraction(a), Fraction(fmt.top)
    emax = log2_floor(m)
    match rule:
        case "floor":
            e = log2_floor(a) - emax
        case "ceil":
            e = log2_floor(a) + (a != Fraction(2) ** log2_floor(a)) - emax
        case "even":
            magnitudes = sorted({abs(Fraction(v)) for v in fmt.values if math.isfinite(v)})
            step = Fraction(2) ** log2_floor(a) * (magnitudes[-1] - magnitudes[-2]) / Fraction(2) ** emax  # of m's binade, at a
            e = log2_floor((a / step + Fraction(1, 2)).__floor__() * step) - emax
        case "rceil":
            e = log2_floor(a / m) - 2
            while a > m * Fraction(2) ** e:
                e += 1
    return min(127, max(-127, e))


def maxima(fmt):
    """Powers of two and the boundaries of the rules in many binades, with their neighbours; subnormals; the largest numbers."""
    shares = [
        1.0,
        1.25,
        1.5,
        1.75,
        1.875,
        1.9375,
        2 - 2**-5,
        2 - 2**-6,
        2 - 2**-7,
        2 - 2**-8,
        fmt.top / 2 ** math.floor(math.log2(fmt.top)),
    ]
    powers = [-149, -148, -140, -130, -127, -126, -125, -120, -60, -1, 0, 1, 7, 60, 120, 126, 127]
    with np.errstate(over="ignore", under="ignore"):
        base = np.array([s * 2.0**p for s in shares for p in powers]).astype(np.float32)
        a = np.concatenate([base, np.nextafter(base, np.float32(np.inf)), np.nextafter(base, np.float32(0))])
    a = np.concatenate([a, np.array([np.finfo(np.float32).max, np.float32(3e38)])])
    return np.unique(a[(a > 0) & np.isfinite(a)]).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ELEMENTS)
def test_the_exponent_is_that_of_the_definition(rule, name):
    fmt = catalog.find("format", name)
    a = maxima(fmt)
    scale = RULES[rule](torch.from_numpy(a).unsqueeze(-1), fmt).scale
    assert torch.log2(scale.double()).tolist() == [exact(rule, float(v), fmt) for v in a]


def test_worked_examples_on_e2m1():
    """The largest number is 6 = 1.5 * 2**2. A maximum of 7 saturates under floor, 4 to 6 fits; even doubles from 7."""
    a = torch.tensor([[4.0], [6.0], [6.5], [7.0], [7.99], [8.0]])
    got = {name: rule(a, catalog.find("format", "float4_e2m1fn")).scale.tolist() for name, rule in RULES.items()}
    assert got == {
        "floor": [1.0, 1.0, 1.0, 1.0, 1.0, 2.0],
        "ceil": [1.0, 2.0, 2.0, 2.0, 2.0, 2.0],
        "even": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0],
        "rceil": [1.0, 1.0, 2.0, 2.0, 2.0, 2.0],
    }


def test_rceil_never_saturates_and_floor_never_wastes_a_binade():
    fmt = catalog.find("format", "float4_e2m1fn")
    a = torch.from_numpy(maxima(fmt))
    a = a[(a > 2.0**-120) & (a < 2.0**120)].unsqueeze(-1)
    assert bool((a.squeeze(-1).double() <= fmt.max * rceil(a, fmt).scale.double()).all())
    assert bool((a.squeeze(-1) >= 4 * floor(a, fmt).scale).all())


def test_exponents_are_read_from_the_bits():
    x = torch.from_numpy(maxima(catalog.find("format", "int8")))
    assert exponent(x).tolist() == [log2_floor(Fraction(v)) for v in x.tolist()]
    assert exponent(torch.zeros(1)).tolist() == [-150]


def test_powers_of_two_are_exact():
    e = torch.arange(-1022, 1024)
    assert two_to_the(e).tolist() == [2.0**k for k in range(-1022, 1024)]


def test_text():
    assert [str(r) for r in (floor, ceil, even, rceil)] == ["floor", "ceil", "even", "rceil"]
