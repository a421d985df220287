"""dINT: integers in a range shortened by two codes, which stand for plus and minus one half."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

LEE = Source(
    "Enhancing Computation Efficiency in Large Language Models through Weight and Activation Quantization",
    "Lee et al.",
    2023,
    "arXiv:2311.05161",
    parts="dINT",
    departs="The two codes taken are those of the most negative integers (-8 and -7 of int4), which the paper's text leaves open; "
    "ties between a half and an integer go to the integer.",
    records=("dint-aqas",),
)


def dint(bits: int) -> TableFormat:
    """-(2**(bits-1) - 2) .. 2**(bits-1) - 1 in two's complement, and the halves; the scale is that of the shorter side.

    A magnitude in (1/4, 3/4) is a half.
    """
    half = 2 ** (bits - 1)
    integers = [float(code - 2 * half if code >= half else code) for code in range(2 * half)]
    integers[half], integers[half + 1] = 0.5, -0.5
    # -1 counts as even so that -3/4 goes to it; no other tie asks for its parity
    odd = tuple(v in (0.5, -0.5) or (int(v) % 2 == 1 and v != -1) for v in integers)
    return TableFormat(f"dint{bits}", tuple(integers), odd=odd, absmax_to=float(half - 2))


dint4, dint3, dint8 = (register("format", f"dint{bits}", LEE)(dint(bits)) for bits in (4, 3, 8))
