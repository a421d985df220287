"""Block floating point: two's complement mantissas under one shared exponent, in blocks of 32."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float8_e8m0fnu
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.power_of_two import floor

TRUKHANOV = Source(
    "Accurate Block Quantization in LLMs with Outliers",
    "Trukhanov, Soloveychik",
    2024,
    "arXiv:2403.20137",
    parts="BFP12 with 4-bit, BFP16 with 8-bit mantissas",
    departs="The number grid only; the channel permutation is another thing. Blocks of 32 by default.",
    records=("k-sort-bfp",),
)

bfp4, bfp8 = (
    register("quantizer", f"bfp{element.bits}", TRUKHANOV)(Scheme(element, Blocks((32,)), floor, scale_quantizer=cast(float8_e8m0fnu)))
    for element in (INTEGERS["int4"], INTEGERS["int8"])
)
