"""ZeroQuant-FP: FP4 weights whose scales are powers of two (M1) or powers of two under one real scale of several rows (M2)."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import register
from lowbit.formats.minifloat import float4_e2m1fn, float8_e8m0fnu
from lowbit.formats.power_steps import WU, halvings15
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.rounding.ieee754 import up
from lowbit.scaling.absmax import absmax
from lowbit.scaling.power_of_two import rceil

# the least power of two that does not clip
zeroquant_fp_m1 = register("quantizer", "zeroquant_fp_m1", WU)(
    Scheme(float4_e2m1fn, Blocks((256,)), rceil, scale_quantizer=cast(float8_e8m0fnu))
)
# S_max * 2**-n with the largest n that does not clip, n = 0 .. 14: every e2m1 number times 2**(6 - n) is one of e4m3
zeroquant_fp_m2 = register("quantizer", "zeroquant_fp_m2", WU)(
    Scheme(
        float4_e2m1fn,
        Blocks((256,)),
        absmax,
        scale_quantizer=Scheme(halvings15, Blocks((32, 1), ragged=True), absmax, up),
    )
)
