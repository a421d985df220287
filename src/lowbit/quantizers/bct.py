"""BCT: integers in blocks of 64 whose scale is a power of two, so that products of blocks are summed with shifts."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float8_e8m0fnu
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.power_of_two import rceil

DONG = Source(
    "Blockwise Compression of Transformer-based Models without Retraining",
    "Dong, Chen, Zhao",
    2023,
    "arXiv:2304.01483",
    parts="the blocks: shift floor(log2((2**(b-1) - 1) / max|x|)), the largest that does not clip",
    departs="Blocks are 64 numbers of a row. The tables for GELU, softmax and the square root are another matter.",
    records=("bct",),
)

bct8, bct4 = (
    register("quantizer", f"bct{bits}", DONG)(Scheme(INTEGERS[f"int{bits}"], Blocks((64,)), rceil, scale_quantizer=cast(float8_e8m0fnu)))
    for bits in (8, 4)
)
