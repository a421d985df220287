"""Powers of two: a sign and a power, no mantissa."""

from __future__ import annotations

import re

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.table import TableFormat

INQ = Source(
    "Convolutional Neural Networks using Logarithmic Data Representation",
    "Miyashita, Lee, Murmann",
    2016,
    "arXiv:1603.01025",
    parts="base two, with zero as in arXiv:1702.03044",
    departs="Nearest is on the numbers, not on their logarithms.",
)


def powers_of_two(bits: int) -> TableFormat:
    """0 and +-2**-k, k = 0 .. 2**(bits-1) - 2; sign and magnitude, the code of -0 is never produced.

    Raises:
        UnsupportedError: fewer than 2 or more than 8 bits.
    """
    if not 2 <= bits <= 8:
        raise UnsupportedError(f"pot{bits}: 2 to 8 bits")
    half = 2 ** (bits - 1)
    magnitudes = [0.0, *(2.0 ** (code - half + 1) for code in range(1, half))]
    return TableFormat(f"pot{bits}", (*magnitudes, *(-m for m in magnitudes)), reserved=frozenset({half}))


pot4, pot3 = (register("format", f"pot{bits}", INQ)(powers_of_two(bits)) for bits in (4, 3))

NAME = re.compile(r"pot(?P<bits>\d+)")


@register("format family", "pot<n>", INQ)
def from_name(name: str) -> TableFormat | None:
    """Powers of two with a sign and a zero in n bits."""
    match = NAME.fullmatch(name)
    return None if match is None else powers_of_two(int(match["bits"]))
