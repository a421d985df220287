"""FP4 with ue5m3 scales and no tensor scale."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import register
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.formats.ue5m3 import HU, ue5m3
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax

fp4_ue5m3 = register("quantizer", "fp4_ue5m3", HU)(Scheme(float4_e2m1fn, Blocks((16,)), absmax, scale_quantizer=cast(ue5m3)))
