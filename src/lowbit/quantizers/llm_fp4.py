"""LLM-FP4's activations: one scale a channel, which differs from the tensor's by a power of two that weights can take over."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float4_e2m1fn, minifloat
from lowbit.formats.power_steps import halvings
from lowbit.formats.table import TableFormat
from lowbit.quantizers.best import Best
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.absmax import Absmax, absmax

LIU = Source(
    "LLM-FP4: 4-Bit Floating-Point Quantized Transformers",
    "Liu, Liu, Huang, Dong, Cheng",
    2023,
    "arXiv:2310.16836",
    parts="pre-shifted exponent bias: b_j = rho + n_j, n_j = 0 .. 2**E - 1; joint search of layout and rho",
    departs="What is searched is log2 of the largest number, a sum with the bias, for the least squared error of the tensor itself "
    "(times an importance where there is one), not that of the layer's output. n_j is rounded, as in the paper, so a channel may "
    "clip by up to sqrt(2). Weights: hq_dit has the same search of layout and bias, row by row.",
    records=("llm-fp4",),
)
e1m2f, e3m0f = minifloat("e1m2f", 1, 2, specials="numbers"), minifloat("e3m0f", 3, 0, specials="numbers")
#: of the scale of the tensor, in quarters of an octave: from a little above the range of the largest channel to an eighth of it
SHIFTS = tuple(2.0 ** (i / 4) for i in range(-1, 13))


def pre_shifted(element: TableFormat, exponent_bits: int, shift: float = 1.0, room: int | None = None) -> Scheme:
    """One scale a column, rho * 2**-n_j with n_j below 2**exponent_bits; rho is that of the column with the largest range / ``shift``."""
    rule = absmax if shift == 1.0 else Absmax(shift)
    return Scheme(element, Blocks((0, 1)), absmax, scale_quantizer=Scheme(halvings(2**exponent_bits, room), Blocks(None), rule))


llm_fp4 = register("quantizer", "llm_fp4", LIU)(
    Best(tuple(pre_shifted(e, E, shift, 8) for e, E in ((float4_e2m1fn, 2), (e1m2f, 1), (e3m0f, 3)) for shift in SHIFTS))
)
# the paper's start: e2m1, and rho of the channel with the largest range
llm_fp4_start = register("quantizer", "llm_fp4_start", LIU)(pre_shifted(float4_e2m1fn, 2))
