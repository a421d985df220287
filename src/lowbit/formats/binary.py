"""Binary: -1 and 1; zero goes to 1, as sign(0) = 1 does in the literature."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

BINARYCONNECT = Source(
    "BinaryConnect: Training Deep Neural Networks with binary weights during propagations",
    "Courbariaux, Bengio, David",
    2015,
    "arXiv:1511.00363",
    parts="Eq. 1 (deterministic)",
    records=("binaryconnect",),
)

binary = register("format", "binary_element", BINARYCONNECT)(TableFormat("binary_element", (-1.0, 1.0), odd=(True, False)))
