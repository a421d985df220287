"""Dynamic fixed point: a tensor of 16-bit (or 8-bit) integers and one shared exponent."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.integer import INTEGERS, integer
from lowbit.formats.minifloat import float8_e8m0fnu
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.power_of_two import floor

DAS = Source(
    "Mixed Precision Training of Convolutional Neural Networks using Integer Operations",
    "Das et al.",
    2018,
    "arXiv:1802.00930",
    parts="E = floor(log2 max|x|) - (P - 2), integers within +-(2**(P-1) - 1)",
    departs="The exponent is kept to -127 .. 127, one byte.",
    records=("dfp16-int",),
)

dfp8, dfp16 = (
    register("quantizer", f"dfp{element.bits}", DAS)(Scheme(element, Blocks(None), floor, scale_quantizer=cast(float8_e8m0fnu)))
    for element in (INTEGERS["int8_narrow"], integer(16, narrow=True))
)
