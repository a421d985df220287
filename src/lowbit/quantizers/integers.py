"""Integer quantizers: one scale a row by default; write ``int4 g64``, ``int4 tensor``, ``int4 g64 asym`` for others."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float16
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax

WU = Source(
    "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    "Wu, Judd, Zhang, Isaev, Micikevicius",
    2020,
    "arXiv:2004.09602",
    parts="section 3.1.2",
    departs="The most negative code is used when a number rounds to it; int4_narrow and the like never use it.",
    records=("int8-principles",),
)

QUANTIZERS = {
    bits: register("quantizer", f"int{bits}", WU)(Scheme(INTEGERS[f"int{bits}"], Blocks((0,)), absmax, scale_quantizer=cast(float16)))
    for bits in (8, 6, 5, 4, 3, 2)
}
int8, int4, int3, int2 = (QUANTIZERS[bits] for bits in (8, 4, 3, 2))
