"""The element and scale tables of ggml's block types."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.formats.table import TableFormat

GGML = Source(
    "ggml: tensor library for machine learning",
    "Gerganov, Kawrakow and contributors",
    2023,
    "https://github.com/ggml-org/ggml",
    parts="ggml-common.h (tables), ggml-quants.c",
)


def offset_integers(bits: int) -> TableFormat:
    """-2**(bits-1) .. 2**(bits-1) - 1, the code 0 being the smallest."""
    half = 2 ** (bits - 1)
    return TableFormat(f"offset_int{bits}", tuple(float(code - half) for code in range(2 * half)), absmax_to=float(half - 1))


def minima(bits: int) -> TableFormat:
    """-0, -1 .. -(2**bits - 1): offsets from zero down, subtracted in ggml."""
    return TableFormat(f"minima{bits}", tuple(-float(code) for code in range(2**bits)))


iq4_nl, two_bits, e2m1, *OTHERS = (
    register("format", fmt.name, GGML)(fmt)
    for fmt in (
        TableFormat("iq4_nl_element", (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)),
        # ternary in two bits; the fourth code decodes to 2 and is never produced
        TableFormat("two_bit_ternary", (-1.0, 0.0, 1.0, 2.0), reserved=frozenset({3}), absmax_to=1.0),
        # there is no -0
        TableFormat("ggml_e2m1", tuple(v or 0.0 for v in float4_e2m1fn.values), reserved=frozenset({8})),
        *(offset_integers(bits) for bits in (3, 4, 5, 6)),
        *(minima(bits) for bits in (4, 6)),
    )
)
