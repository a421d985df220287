"""Round to odd: whatever is not a number of the format goes to its odd neighbour."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.rounding.rounding import Rounding

BOLDO_MELQUIOND = Source(
    "Emulation of a FMA and Correctly Rounded Sums: Proved Algorithms Using Rounding to Odd",
    "Boldo, Melquiond",
    2008,
    "IEEE Transactions on Computers 57(4)",
    parts="definition of rounding to odd, section 2",
    records=("pychop",),
)

to_odd = register("rounding", "to_odd", BOLDO_MELQUIOND)(
    Rounding("to_odd", lambda gap, noise: ~gap.odd, lambda low, high, odd: (high, True) if odd else (low, False))
)
