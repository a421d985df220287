"""NUPES and PowerQuant: integers after a power map, whose exponent is searched for every tensor."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import register
from lowbit.formats.minifloat import float16
from lowbit.formats.nupes import YVINEC, power
from lowbit.quantizers.best import Best
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax

#: the exponents that are tried, 1 (equal steps) first
EXPONENTS = tuple(round(1 - 0.05 * i, 2) for i in range(16))

nupes4, nupes3 = (
    register("quantizer", f"nupes{bits}", YVINEC)(
        Best(tuple(Scheme(power(bits, a), Blocks((0,)), absmax, scale_quantizer=cast(float16)) for a in EXPONENTS))
    )
    for bits in (4, 3)
)
