"""Inferflow's 3.5-bit blocks: 11 levels between the minimum and the maximum of 64 numbers, two codes in seven bits."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float16
from lowbit.formats.table import TableFormat
from lowbit.quantizers.radix_packed import RadixPacked
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.rounding.ieee754 import nearest_away
from lowbit.scaling.range import range_rule

SHI = Source(
    "Inferflow: an Efficient and Highly Configurable Inference Engine for Large Language Models",
    "Shi et al.",
    2024,
    "arXiv:2401.08294",
    parts="3.5-bit quantization (Q3H_B64T1)",
    departs="Words of seven bits follow each other; the engine cuts them into planes of 4, 2 and 1 bits. Codes are chosen with the "
    "stored float16 scale and base. Blocks whose scale is below 1e-5 are quantized like the others.",
    records=("inferflow",),
)
levels11 = TableFormat("levels11", tuple(map(float, range(11))))

inferflow = register("quantizer", "inferflow", SHI, aliases=("q3h_b64t1",))(
    RadixPacked(
        Scheme(levels11, Blocks((64,)), range_rule, rounding=nearest_away, scale_quantizer=cast(float16), offset_quantizer=cast(float16))
    )
)
