"""Unsigned scale formats with three mantissa bits: ue5m3 (the range of float16) and ue4m3 (that of e4m3)."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.minifloat import minifloat

HU = Source(
    "Elucidating the Design Space of FP4 training",
    "Hu et al.",
    2025,
    "arXiv:2509.17791",
    parts="UE5M3 block scales",
    departs="The top code is not standardised: here it is the one NaN, as in e4m3fn, so the largest scale is 1.75 * 2**16; bias 15.",
    records=("fp4-design-space",),
)

ue5m3 = register("format", "ue5m3", HU)(minifloat("ue5m3", 5, 3, specials="fn", signed=False))
ue4m3 = register("format", "ue4m3", HU)(minifloat("ue4m3", 4, 3, specials="fn", signed=False))
