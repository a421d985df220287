"""HQ-DiT: of the FP4 layouts e3m0, e2m1 and e1m2 the one that fits a weight best, with a range of its own for every row."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float4_e2m1fn, float16, minifloat
from lowbit.quantizers.best import Best
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.mse import mse

LIU = Source(
    "HQ-DiT: Efficient Diffusion Transformer with FP4 Hybrid Quantization",
    "Liu, Zhang",
    2024,
    "arXiv:2405.19751",
    parts="the choice among FP4 layouts for weights, and their clipping ranges",
    departs="Layout and range are those with the least squared error, where the paper compares two spreads as a shortcut. The rotation of "
    "activations is another thing.",
    records=("hq-dit",),
)
e1m2f, e3m0f = minifloat("e1m2f", 1, 2, specials="numbers"), minifloat("e3m0f", 3, 0, specials="numbers")

hq_dit = register("quantizer", "hq_dit", LIU)(
    Best(tuple(Scheme(element, Blocks((0,)), mse, scale_quantizer=cast(float16)) for element in (float4_e2m1fn, e1m2f, e3m0f)))
)
