"""The 8-bit dynamic data type: a decimal exponent of varying length, the rest a linear fraction."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

DETTMERS = Source(
    "8-Bit Approximations for Parallelism in Deep Learning",
    "Dettmers",
    2015,
    "arXiv:1511.04561",
    parts="dynamic tree quantization, with the numbers of bitsandbytes (signed, 7 exponent bits)",
    departs="Ties go to the even code.",
    records=("kbit-scaling",),
)


def dynamic_tree(name: str, exponents: int = 7, *, signed: bool = True) -> TableFormat:
    """For each i below ``exponents``, 2**i midpoints of [0.1, 1] times 10**(i - exponents + 1), of both signs; 0; 1.

    Without a sign there are 2**(i + 1) midpoints.
    """
    numbers = [0.0, 1.0]
    for i in range(exponents):
        count = 2**i if signed else 2 ** (i + 1)
        for k in range(count):
            number = (0.1 + (k + 0.5) * (0.9 / count)) * 10.0 ** (i - exponents + 1)
            numbers += [number, -number] if signed else [number]
    return TableFormat(name, tuple(sorted(numbers)))


dynamic8 = register("format", "dynamic8", DETTMERS)(dynamic_tree("dynamic8"))
dynamic8_unsigned = register("format", "dynamic8_unsigned", DETTMERS)(dynamic_tree("dynamic8_unsigned", signed=False))
