"""Integers in two's complement or unsigned, 1 to 8 bits, full or narrow range."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

JACOB = Source(
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    "Jacob et al.",
    2017,
    "arXiv:1712.05877",
    parts="section 2.1 (codes), 3.1 (narrow range)",
    records=("integer-arithmetic-only", "int8-principles", "whitepaper-qat"),
)


def integer(bits: int, *, signed: bool = True, narrow: bool = False) -> TableFormat:
    """All integers of ``bits`` bits. A signed one maps a block's largest magnitude to 2**(bits-1) - 1.

    Args:
        narrow: never produce -2**(bits-1), so that the range is symmetric; its code still decodes.
    """
    levels = 2**bits
    values = [code - levels if signed and code >= levels // 2 else code for code in range(levels)]
    name = f"{'' if signed else 'u'}int{bits}{'_narrow' if narrow else ''}"
    top = max(float(levels // 2 - 1), 1.0) if signed else float(levels - 1)
    return TableFormat(
        name,
        tuple(map(float, values)),
        odd=tuple(v % 2 == 1 for v in values),
        reserved=frozenset({levels // 2}) if narrow else frozenset(),
        absmax_to=top,
    )


INTEGERS = {
    fmt.name: register("format", fmt.name, JACOB)(fmt)
    for fmt in (
        *(integer(bits) for bits in range(1, 9)),
        *(integer(bits, signed=False) for bits in range(1, 9)),
        *(integer(bits, narrow=True) for bits in range(2, 9)),
    )
}
int8, int4, int3, int2 = (INTEGERS[f"int{bits}"] for bits in (8, 4, 3, 2))
