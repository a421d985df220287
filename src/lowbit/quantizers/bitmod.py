"""BitMoD: groups of 128, each with the one of four value sets that has the least error."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import register
from lowbit.formats import bitmod as elements
from lowbit.formats.bitmod import CHEN
from lowbit.formats.minifloat import float16
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax

bitmod4, bitmod3 = (
    register("quantizer", f"bitmod{bits}", CHEN)(Scheme(element, Blocks((128,)), absmax, scale_quantizer=cast(float16)))
    for bits, element in ((4, elements.bitmod4), (3, elements.bitmod3))
)
