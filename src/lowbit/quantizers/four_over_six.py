"""NVFP4 with four over six: a block's scale maps its largest magnitude to 6 or to 4."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import register
from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.absmax import Absmax, absmax
from lowbit.scaling.four_over_six import COOK, four_over_six

nvfp4_four_over_six, nvfp4_four_over_six_256 = (
    register("quantizer", name, COOK)(
        Scheme(float4_e2m1fn, Blocks((16,)), four_over_six, scale_quantizer=Scheme(float8_e4m3fn, Blocks(None), rule))
    )
    for name, rule in (("nvfp4_four_over_six", absmax), ("nvfp4_four_over_six_256", Absmax(384.0)))
)
