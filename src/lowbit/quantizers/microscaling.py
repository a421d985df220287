"""MX: 32 numbers share a power of two. The scale rule is OCP's floor; ``mxfp4 even`` and the like change it."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.fixed_point import q1_6
from lowbit.formats.minifloat import float4_e2m1fn, float6_e2m3fn, float6_e3m2fn, float8_e4m3fn, float8_e5m2, float8_e8m0fnu
from lowbit.formats.table import TableFormat
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.power_of_two import floor

OCP_MX = Source(
    "OCP Microscaling Formats (MX) Specification v1.0",
    "Open Compute Project",
    2023,
    "OCP MX v1.0",
    parts="table 1, section 6.3",
    departs="Elements round to nearest even. A block with a NaN or an Inf has a NaN scale.",
)


def mx(element: TableFormat) -> Scheme:
    """32 numbers of a format under one e8m0 scale."""
    return Scheme(element, Blocks((32,)), floor, scale_quantizer=cast(float8_e8m0fnu))


mxfp8 = register("quantizer", "mxfp8", OCP_MX, aliases=("mxfp8_e4m3",))(mx(float8_e4m3fn))
mxfp8_e5m2 = register("quantizer", "mxfp8_e5m2", OCP_MX)(mx(float8_e5m2))
mxfp6 = register("quantizer", "mxfp6", OCP_MX, aliases=("mxfp6_e2m3",))(mx(float6_e2m3fn))
mxfp6_e3m2 = register("quantizer", "mxfp6_e3m2", OCP_MX)(mx(float6_e3m2fn))
mxfp4 = register("quantizer", "mxfp4", OCP_MX)(mx(float4_e2m1fn))
mxint8 = register("quantizer", "mxint8", OCP_MX)(mx(q1_6))
