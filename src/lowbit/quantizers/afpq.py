"""AFPQ: groups of 128 with one scale for positive and one for negative numbers."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float4_e2m1fn, float16, minifloat
from lowbit.formats.normal_float import nf4
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.sign_split import sign_split

AFPQ = Source(
    "AFPQ: Asymmetric Floating Point Quantization for LLMs",
    "Zhang et al.",
    2023,
    "arXiv:2311.01792",
    parts="a scale for each sign, with FP4 (e2m1), FP3 (e2m0) and NF4",
    departs="A sign without numbers has scale 0. NF4 keeps its own positive and negative halves.",
    records=("afpq",),
)
e2m0f = minifloat("e2m0f", 2, 0, specials="numbers")

afpq4, afpq3, afpq_nf4 = (
    register("quantizer", name, AFPQ)(Scheme(element, Blocks((128,)), sign_split, scale_quantizer=cast(float16)))
    for name, element in (("afpq4", float4_e2m1fn), ("afpq3", e2m0f), ("afpq_nf4", nf4))
)
