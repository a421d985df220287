"""Halvings: 1, 1/2, 1/4 .. for scales that may differ by powers of two only."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.middles import MiddleFormat

WU = Source(
    "ZeroQuant-FP: A Leap Forward in LLMs Post-Training W4A8 Quantization Using Floating-Point Formats",
    "Wu, Yao, He",
    2023,
    "arXiv:2307.09782",
    parts="constraint M2: ratios of scales are powers of two",
    departs="Roundings to nearest are on the exponent (the middle of two neighbours is sqrt(2) times the smaller).",
    records=("zeroquant-fp",),
)


class Halvings(MiddleFormat):
    """2**-n for n = 0, 1, ..; nearest in the exponent."""

    def middle(self, low: Fraction, high: Fraction) -> Fraction:
        """The geometric mean, to the precision of float64."""
        return Fraction(math.sqrt(float(low * high)))


def halvings(count: int, room: int | None = None) -> Halvings:
    """The numbers 2**-n, n = 0 .. count - 1; the code is n, of as many bits as ``room`` numbers take.

    Raises:
        UnsupportedError: fewer than 2 or more than 120 numbers, or less room than numbers.
    """
    of = room or count
    name = f"halvings{count}" if room is None else f"halvings{count}of{room}"
    if not 2 <= count <= of <= 120:
        raise UnsupportedError(f"{name}: 2 to 120 numbers, and room for all of them")
    return Halvings(name, tuple(2.0**-n for n in range(of)), reserved=frozenset(range(count, of)))


halvings4, halvings15 = (register("format", f"halvings{count}", WU)(halvings(count)) for count in (4, 15))

NAME = re.compile(r"halvings(?P<count>\d+)(?:of(?P<room>\d+))?")


@register("format family", "halvings<n>", WU)
def from_name(name: str) -> Halvings | None:
    """1, 1/2 .. n numbers; ``halvings4of8`` has 4 of them in codes of 3 bits."""
    match = NAME.fullmatch(name)
    return None if match is None else halvings(int(match["count"]), int(match["room"]) if match["room"] else None)
