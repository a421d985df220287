"""NVFP4: e2m1 in blocks of 16, their scales in e4m3 under one float32 scale a tensor."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.absmax import absmax

NVFP4 = Source(
    "Pretraining Large Language Models with NVFP4",
    "NVIDIA",
    2025,
    "arXiv:2509.25149",
    parts="appendix B, Eq. 2-7",
    departs="The order of the operations is that of Grid: s = amax / 6, t = max(s) / 448, s8 = e4m3(s / t), codes of "
    "x / (s8 * t), each step one float32 operation; the paper multiplies by reciprocals.",
    records=("nvfp4-pretrain",),
)

nvfp4 = register("quantizer", "nvfp4", NVFP4)(
    Scheme(float4_e2m1fn, Blocks((16,)), absmax, scale_quantizer=Scheme(float8_e4m3fn, Blocks(None), absmax))
)
