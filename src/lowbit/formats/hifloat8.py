"""HiFloat8: a tapered 8-bit float whose prefix says how many bits the exponent has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from lowbit.catalog import Source, register
from lowbit.formats.format import Overflow
from lowbit.formats.table import Line, TableFormat

LUO = Source(
    "Ascend HiFloat8 Format for Deep Learning",
    "Luo et al.",
    2024,
    "arXiv:2409.16626",
    parts="the encoding, and rounding half away from zero",
    departs="overflow=special is the paper's (from 1.25 * 2**15 on Inf); saturate is the library's default. absmax maps a block's "
    "largest magnitude to 15, the end of the range with three mantissa bits. The hybrid rounding takes its random bits from "
    "the discarded tail in the paper, here it is any stochastic rounding.",
    records=("hifloat8",),
)

#: prefix, exponent bits, mantissa bits
DOTS = (("11", 4, 1), ("10", 3, 2), ("01", 2, 3), ("001", 1, 3), ("0001", 0, 3))


def value(code: int) -> float:
    """The number of a code.

    S, a prefix (the dot), D exponent bits in sign and magnitude with a hidden leading one, M mantissa bits::

        (-1)^S * 2^e * (1 + m / 2^M);   prefix 0000: (-1)^S * 2^(m - 23);   0x00 is 0, 0x80 NaN, 0x6F and 0xEF are Inf
    """
    sign, word = (-1.0 if code & 0x80 else 1.0), f"{code & 0x7F:07b}"
    if code & 0x7F == 0x6F:
        return sign * math.inf
    for dot, D, M in DOTS:
        if word.startswith(dot):
            exponent, mantissa = word[len(dot) : len(dot) + D], int(word[-M:], 2)
            e = int("1" + exponent[1:], 2) * (-1 if exponent[0] == "1" else 1) if D else 0
            return sign * 2.0**e * (1 + mantissa / 2**M)
    m = code & 7
    if m == 0:
        return math.nan if code & 0x80 else 0.0
    return sign * 2.0 ** (m - 23)


@dataclass(frozen=True)
class TaperedLine(Line):
    """After 2**15 comes 1.5 * 2**15, which is Inf: the mantissa bit is that of the binade, not of the gap before."""

    def ends(self, overflow: Overflow) -> tuple[list[float], list[int], list[bool]]:
        values, codes, odd = super().ends(overflow)
        if overflow == "special":
            values[0], values[-1] = -1.5 * 2.0**15, 1.5 * 2.0**15
            odd[0] = odd[1]
        return values, codes, odd


@dataclass(frozen=True, eq=False)
class HiFloat8(TableFormat):
    """The table, with the number that follows the largest as the definition has it."""

    #: the number that would follow the largest; it has the parity of the end
    after = 1.5 * 2.0**15

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        return (TaperedLine(**Line.of(self.values, self._odd, self.reserved).__dict__),)


# ties go away from zero whatever the code: numbers from zero on are odd, negative ones even
hifloat8 = register("format", "hifloat8", LUO, aliases=("hif8",))(
    HiFloat8("hifloat8", tuple(map(value, range(256))), odd=tuple(code < 0x80 for code in range(256)), absmax_to=15.0)
)
