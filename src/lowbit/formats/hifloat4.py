"""HiFloat4's parts: elements in sign and magnitude of quarters (HiFloat5: eighths), one-bit exponents, the e6m2 scale of 64 numbers."""

from __future__ import annotations

import math

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

HIF4 = Source(
    "HiFloat4 Format for Language Model Pre-training on Ascend NPUs",
    "Luo et al.",
    2026,
    "arXiv:2604.08826",
    parts="the format (three scale levels) and its encoder; the format itself is arXiv:2602.11287",
    departs="A block with a NaN or an Inf has a NaN scale. A block of zeros has the smallest scale and zero codes.",
    records=("hifloat4",),
)


def e6m2(code: int) -> float:
    """2**(E - 48) * (1 + M / 4), unsigned, without zero; the last code is NaN and the largest number 1.5 * 2**15."""
    return math.nan if code == 255 else 2.0 ** ((code >> 2) - 48) * (1 + (code & 3) / 4)


def sign_and_magnitude(name: str, bits: int) -> TableFormat:
    """Sign and magnitude from 0 to just below 2. Ties go away from zero: codes of positive numbers are odd, of negative ones even."""
    half = 2 ** (bits - 1)
    numbers = tuple((-1.0 if code >= half else 1.0) * (code % half) * 2 / half for code in range(2 * half))
    return TableFormat(name, numbers, odd=(True,) * half + (False,) * half)


hifloat4 = register("format", "hifloat4_element", HIF4, aliases=("s1p2",))(sign_and_magnitude("hifloat4_element", 4))
hifloat5 = register("format", "hifloat5_element", HIF4, aliases=("s1p3",))(sign_and_magnitude("hifloat5_element", 5))
one_or_two = register("format", "hifloat4_exponent", HIF4)(TableFormat("hifloat4_exponent", (1.0, 2.0)))
scale = register("format", "hifloat4_scale", HIF4, aliases=("ue6m2",))(TableFormat("hifloat4_scale", tuple(map(e6m2, range(256)))))
