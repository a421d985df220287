"""Integer twins of the block floats: MXINT with a power of two that never clips, NVINT4 with an e4m3 scale; codes are symmetric."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float8_e4m3fn, float8_e8m0fnu
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax
from lowbit.scaling.power_of_two import rceil

CHEN = Source(
    "INT v.s. FP: A Comprehensive Study of Fine-Grained Low-bit Quantization Formats",
    "Chen et al.",
    2025,
    "arXiv:2510.25602",
    parts="section 2 (formats, scale rounded up), 3.2 (symmetric clipping: -2**(b-1) is never used)",
    departs="mxint8 is OCP's (fixed point, floor); the one of this paper is mxint8_symmetric.",
    records=("int-vs-fp",),
)

mxint8_symmetric, mxint6, mxint4 = (
    register("quantizer", name, CHEN)(Scheme(INTEGERS[f"int{bits}_narrow"], Blocks((32,)), rceil, scale_quantizer=cast(float8_e8m0fnu)))
    for name, bits in (("mxint8_symmetric", 8), ("mxint6", 6), ("mxint4", 4))
)
nvint4 = register("quantizer", "nvint4", CHEN)(
    Scheme(INTEGERS["int4_narrow"], Blocks((16,)), absmax, scale_quantizer=Scheme(float8_e4m3fn, Blocks(None), absmax))
)
