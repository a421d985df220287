"""The same with the rows of x in int8: exact sums, bit for bit those of the reference."""

from __future__ import annotations

from torch import Tensor

from lowbit.kernels.cpu import qlinear
from lowbit.kernels.cpu.linear_layout import UNITS, PackedLinear
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.reference.qlinear_int8 import MOST_COLUMNS, unit_of

WIDTHS = (2, 4, 8)  # of stored codes


def refuses(x: Tensor, weight: PackedLinear | LinearSpec | str, bias: Tensor | None = None) -> str | None:
    reason = qlinear.refuses(x, weight, bias)
    if reason is not None or not isinstance(weight, PackedLinear) or (weight.whole is not None and weight.stored_bits in WIDTHS):
        return reason
    if weight.group > MOST_COLUMNS:
        return f"groups of {weight.group} columns may overflow 32 bits; up to {MOST_COLUMNS} are exact"
    if unit_of(weight.table) is None:
        return "the table is not a run of at most 8-bit integers times a power of two"
    return (
        f"codes stored in {weight.stored_bits} bits ({UNITS[weight.stored_bits][0]} to a unit) have no integer kernel, 2, 4 and 8 bits have"
    )


def run(x: Tensor, weight: PackedLinear, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Shapes: as ``qlinear``.

    Raises:
        ShapeError: x, bias or out do not fit.
    """
    return qlinear.multiply("qlinear_int8", x, weight, bias, out)
