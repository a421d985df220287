"""Additive powers of two: every magnitude is a sum of a few powers of two."""

from __future__ import annotations

import itertools
import re

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.table import TableFormat

LI = Source(
    "Additive Powers-of-Two Quantization: An Efficient Non-uniform Discretization for Neural Networks",
    "Li, Dong, Wang",
    2019,
    "arXiv:1909.13144",
    parts="Eq. 6 with base bits k = 2; for odd widths the levels of the released code",
    departs="Numbers are scaled so that the largest is 1; the code of -0 is never produced.",
)


def additive_powers(bits: int) -> TableFormat:
    """gamma * sum_i p_i and a sign; each of n terms p_i is 0 or one of three powers 2**-(i + j n), j = 0, 1, 2 (2 bits a term).

    Raises:
        UnsupportedError: fewer than 3 or more than 8 bits.
    """
    if not 3 <= bits <= 8:
        raise UnsupportedError(f"apot{bits}: 3 to 8 bits")
    n, odd = divmod(bits - 1, 2)
    count = itertools.count(1)
    terms = [[0.0] for _ in range(n + odd)]
    for lap in range(3):  # powers are dealt out in turn; the one-bit term of an odd width gets the one before the last lap
        if lap == 2 and odd:
            terms[n].append(2.0 ** -next(count))
        for term in terms[:n]:
            term.append(2.0 ** -next(count))
    sums = sorted(map(sum, itertools.product(*terms)))
    magnitudes = [v / sums[-1] for v in sums]
    return TableFormat(f"apot{bits}", (*magnitudes, *(-m for m in magnitudes)), reserved=frozenset({1 << bits - 1}))


apot4, apot5 = (register("format", f"apot{bits}", LI)(additive_powers(bits)) for bits in (4, 5))

NAME = re.compile(r"apot(?P<bits>\d+)")


@register("format family", "apot<n>", LI)
def from_name(name: str) -> TableFormat | None:
    """Additive powers of two with a sign in n bits."""
    match = NAME.fullmatch(name)
    return None if match is None else additive_powers(int(match["bits"]))
