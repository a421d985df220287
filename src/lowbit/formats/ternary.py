"""Ternary: -1, 0 and 1; zero is even, so a tie between 0 and 1 goes to 0."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

BITNET = Source(
    "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits",
    "Ma et al.",
    2024,
    "arXiv:2402.17764",
    parts="Eq. 1-2",
    records=("bitnet-b158",),
)

ternary = register("format", "ternary_element", BITNET)(TableFormat("ternary_element", (-1.0, 0.0, 1.0), odd=(True, False, True)))
