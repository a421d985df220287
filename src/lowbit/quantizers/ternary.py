"""Ternary weights with one absmean scale a tensor (BitNet b1.58), and binary ones with one a row."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.binary import binary as binary_element
from lowbit.formats.ternary import ternary as ternary_element
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.absmean import absmean

BITNET = Source(
    "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits",
    "Ma et al.",
    2024,
    "arXiv:2402.17764",
    parts="Eq. 1-3",
    departs="Two bits a weight as packed here.",
    records=("bitnet-b158",),
)
XNOR = Source(
    "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    "Rastegari, Ordonez, Redmon, Farhadi",
    2016,
    "arXiv:1603.05279",
    parts="Eq. 6 (the mean magnitude of a filter is the least-squares scale)",
)

ternary = register("quantizer", "ternary", BITNET)(Scheme(ternary_element, Blocks(None), absmean))
binary = register("quantizer", "binary", XNOR)(Scheme(binary_element, Blocks((0,)), absmean))
