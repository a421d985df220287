"""BitMoD's value sets: a small float whose code of -0 stands for one special number, a choice of four a group."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

CHEN = Source(
    "BitMoD: Bit-serial Mixture-of-Datatype LLM Acceleration",
    "Chen et al.",
    2024,
    "arXiv:2411.11745",
    parts="section III, table 2 (special values +-3 and +-6 for 3 bits, +-5 and +-8 for 4 bits)",
    departs="A code that the special number takes is the one of -0, the most negative pattern's place in sign and magnitude.",
    records=("bitmod",),
)


def bitmod(name: str, magnitudes: tuple[float, ...], specials: tuple[float, ...]) -> TableFormat:
    """Sign and magnitude; the code of -0 is the special number, and each special number is one alternative table."""

    def table(special: float) -> tuple[float, ...]:
        return (*magnitudes, special, *(-m for m in magnitudes[1:]))

    first, *others = map(table, specials)
    return TableFormat(name, first, alternatives=tuple(others))


bitmod4 = register("format", "bitmod4_element", CHEN)(bitmod("bitmod4_element", (0, 0.5, 1, 1.5, 2, 3, 4, 6), (5, -5, 8, -8)))
bitmod3 = register("format", "bitmod3_element", CHEN)(bitmod("bitmod3_element", (0, 1, 2, 4), (3, -3, 6, -6)))
