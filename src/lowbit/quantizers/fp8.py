"""FP8 with float32 scales: one a row by default; ``fp8 tensor`` and ``fp8 128x128 ragged`` are the other usual blocks."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float8_e4m3fn, float8_e5m2
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.absmax import absmax

FP8 = Source(
    "FP8 Formats for Deep Learning",
    "Micikevicius et al.",
    2022,
    "arXiv:2209.05433",
    parts="scales in software",
    records=("fp8-formats",),
)
DEEPSEEK = Source(
    "DeepSeek-V3 Technical Report", "DeepSeek-AI", 2024, "arXiv:2412.19437", parts="section 3.3.2 (128x128 tiles for weights)"
)

fp8 = register("quantizer", "fp8", FP8, aliases=("fp8_e4m3",))(Scheme(float8_e4m3fn, Blocks((0,)), absmax))
fp8_e5m2 = register("quantizer", "fp8_e5m2", FP8)(Scheme(float8_e5m2, Blocks((0,)), absmax))
fp8_tile = register("quantizer", "fp8_tile", DEEPSEEK)(Scheme(float8_e4m3fn, Blocks((128, 128), ragged=True), absmax))
