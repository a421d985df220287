"""LLM-FP4's activations: one scale a channel, which differs from the tensor's by a power of two that weights can take over."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.formats.power_steps import halvings4
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.absmax import absmax

LIU = Source(
    "LLM-FP4: 4-Bit Floating-Point Quantized Transformers",
    "Liu, Liu, Huang, Dong, Cheng",
    2023,
    "arXiv:2310.16836",
    parts="section 4.2, pre-shifted exponent bias: b_j = rho + n_j, n_j = 0 .. 2**E - 1",
    departs="rho is that of the channel with the largest range (the paper's start); the joint search is not here. n_j is rounded, as in "
    "the paper, so a channel may clip by up to sqrt(2).",
    records=("llm-fp4",),
)

llm_fp4 = register("quantizer", "llm_fp4", LIU)(
    Scheme(float4_e2m1fn, Blocks((0, 1)), absmax, scale_quantizer=Scheme(halvings4, Blocks(None), absmax))
)
