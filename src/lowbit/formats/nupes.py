"""NUPES: integers after a power map, so that products of codes keep their meaning."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.middles import MiddleFormat

YVINEC = Source(
    "NUPES : Non-Uniform Post-Training Quantization via Power Exponent Search",
    "Yvinec, Dapogny, Bailly",
    2023,
    "arXiv:2308.05600",
    parts="power automorphisms, and the search over the exponent of PowerQuant (arXiv:2301.09858)",
    departs="Rounding to nearest is in the domain of the power, as in the paper, not on the numbers. The quantizers try the "
    "exponents 0.25, 0.3 .. 1, the solver goes on from there along the derivative; the soft rounding of the gradient method is not here.",
    records=("nupes",),
)


@dataclass(frozen=True, eq=False)
class Power(MiddleFormat):
    """Integers after a power map; nearest is in the domain of the power (to the precision of float64)."""

    exponent: float = field(default=1.0, kw_only=True)

    def middle(self, low: Fraction, high: Fraction) -> Fraction:
        """The number whose power is halfway between the powers of its neighbours."""
        mean = sum((1 if v > 0 else -1) * abs(float(v)) ** self.exponent for v in (low, high)) / 2
        point = Fraction(math.copysign(abs(mean) ** (1 / self.exponent), mean))
        return min(max(point, low), high)


def power(bits: int, exponent: float) -> Power:
    """Numbers sgn(q) * (|q| / L)**(1 / exponent), L = 2**(bits-1) - 1, q = -L .. L in two's complement; -L - 1 is never produced.

    Raises:
        UnsupportedError: fewer than 2 or more than 8 bits, or an exponent outside of (0, 4].
    """
    if not 2 <= bits <= 8 or not 0 < exponent <= 4:
        raise UnsupportedError(f"power{bits}_{exponent:g}: 2 to 8 bits, and an exponent above 0 and at most 4")
    half = 2 ** (bits - 1)
    top = half - 1
    integers = [code - 2 * half if code >= half else code for code in range(2 * half)]
    values = tuple((1 if q >= 0 else -1) * (abs(q) / top) ** (1 / exponent) for q in integers)
    return Power(f"power{bits}_{exponent:g}", values, reserved=frozenset({half}), absmax_to=1.0, exponent=exponent)


power4 = register("format", "power4_0.7", YVINEC)(power(4, 0.7))

NAME = re.compile(r"power(?P<bits>\d+)_(?P<exponent>\d+(?:\.\d+)?)")


@register("format family", "power<n>_<a>", YVINEC)
def from_name(name: str) -> Power | None:
    """Integers of n bits after the power a: power4_0.7 for instance; power4_1 is int4 scaled to [-1, 1]."""
    match = NAME.fullmatch(name)
    return None if match is None else power(int(match["bits"]), float(match["exponent"]))
