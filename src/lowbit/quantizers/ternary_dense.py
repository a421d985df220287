"""Ternary weights at 1.6 bits: five trits in a byte."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.quantizers.radix_packed import RadixPacked
from lowbit.quantizers.ternary import ternary

BITNET = Source(
    "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits",
    "Ma et al.",
    2024,
    "arXiv:2402.17764",
    parts="Eq. 1-3, with 3**5 = 243 codes in a byte",
    records=("bitnet-b158",),
)

ternary_dense = register("quantizer", "ternary_dense", BITNET)(RadixPacked(ternary))
