"""Fixed point: integers times a power of two, written Q<integer bits>.<fraction bits>, plus a sign bit."""

from __future__ import annotations

import re

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.table import TableFormat

OCP_MX = Source(
    "OCP Microscaling Formats (MX) Specification v1.0",
    "Open Compute Project",
    2023,
    "OCP MX v1.0",
    parts="5.3.4 INT8 (q1.6)",
)
COURBARIAUX = Source(
    "Training deep neural networks with low precision multiplications",
    "Courbariaux, Bengio, David",
    2014,
    "arXiv:1412.7024",
    parts="fixed point",
    records=("pychop",),
)


def fixed_point(integer_bits: int, fraction_bits: int, *, signed: bool = True) -> TableFormat:
    """value = code * 2**-fraction_bits, the code in two's complement when signed.

    Raises:
        UnsupportedError: more than 16 bits, or none.
    """
    bits = signed + integer_bits + fraction_bits
    name = f"{'' if signed else 'u'}q{integer_bits}.{fraction_bits}"
    if not 1 <= bits <= 16:
        raise UnsupportedError(f"{name} has {bits} bits; a table holds 1 to 16")
    levels = 2**bits
    numbers = [code - levels if signed and code >= levels // 2 else code for code in range(levels)]
    return TableFormat(
        name,
        tuple(v * 2.0**-fraction_bits for v in numbers),
        odd=tuple(v % 2 == 1 for v in numbers),
        absmax_to=max(numbers) * 2.0**-fraction_bits or 2.0**-fraction_bits,
    )


q1_6 = register("format", "q1.6", OCP_MX, aliases=("mxint8_element",))(fixed_point(1, 6))

NAME = re.compile(r"(?P<unsigned>u?)q(?P<integer>\d+)\.(?P<fraction>\d+)")


@register("format family", "qI.F", COURBARIAUX)
def from_name(name: str) -> TableFormat | None:
    """Any fixed-point format by its name: [u]q<integer bits>.<fraction bits>."""
    match = NAME.fullmatch(name)
    return None if match is None else fixed_point(int(match["integer"]), int(match["fraction"]), signed=not match["unsigned"])
