"""Abnormal float: the 16 numbers with the least mean absolute error for normal blocks of 64 scaled by their largest magnitude."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

YOSHIDA = Source(
    "NF4 Isn't Information Theoretically Optimal (and that's Good)",
    "Yoshida",
    2023,
    "arXiv:2306.06965",
    parts="AF4 for blocks of 64: each number is the median of its bin, -1, 0 and 1 are kept",
    departs="Ties go to the even code.",
)

af4 = register("format", "af4", YOSHIDA, aliases=("abnormal_float4",))(
    TableFormat(
        "af4",
        (
            -1.0, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0.0,
            0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1.0,
        ),
    )
)  # fmt: skip
