"""FP8-AMAX: one power of two a tensor, taken from the tensor at hand; e4m3 for weights and activations, e5m2 for gradients."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float8_e4m3fnuz, float8_e5m2fnuz, float8_e8m0fnu
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.power_of_two import rceil

PEREZ = Source(
    "Training and inference of large language models using 8-bit floating point",
    "Perez et al.",
    2023,
    "arXiv:2309.17224",
    parts="FP8-AMAX: bias floor(log2(max of the format / max|x|)), in the formats with one NaN (largest number 240 or 57344)",
    departs="A tensor of zeros has scale 0, which decodes to zeros like any other.",
    records=("fp8-amax",),
)

fp8_amax, fp8_amax_e5m2 = (
    register("quantizer", name, PEREZ)(Scheme(element, Blocks(None), rceil, scale_quantizer=cast(float8_e8m0fnu)))
    for name, element in (("fp8_amax", float8_e4m3fnuz), ("fp8_amax_e5m2", float8_e5m2fnuz))
)
