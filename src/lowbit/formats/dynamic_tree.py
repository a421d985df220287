"""The 8-bit dynamic data type: a decimal exponent of varying length, the rest a linear fraction."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

DETTMERS = Source(
    "8-Bit Approximations for Parallelism in Deep Learning",
    "Dettmers",
    2015,
    "arXiv:1511.04561",
    parts="section 2.1, dynamic tree quantization; with the numbers of bitsandbytes (signed, 7 exponent bits)",
    departs="Ties go to the even code.",
    records=("kbit-scaling",),
)


def dynamic_tree(name: str, exponents: int = 7) -> TableFormat:
    """For each i below ``exponents``, 2**i midpoints of [0.1, 1] times 10**(i - exponents + 1), of both signs; 0; 1."""
    numbers = [0.0, 1.0]
    for i in range(exponents):
        width = 0.9 / 2**i
        for k in range(2**i):
            number = (0.1 + (k + 0.5) * width) * 10.0 ** (i - exponents + 1)
            numbers += [number, -number]
    return TableFormat(name, tuple(sorted(numbers)))


dynamic8 = register("format", "dynamic8", DETTMERS)(dynamic_tree("dynamic8"))
