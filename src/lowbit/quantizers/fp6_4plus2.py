"""FP6 (e3m2) with one scale a row, and its 4+2 storage: codes split into two bit planes of aligned words."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.errors import CheckpointError, ShapeError
from lowbit.formats.minifloat import float6_e3m2fn, float16, minifloat
from lowbit.packing import pack, packed_nbytes, unpack
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax

WU = Source(
    "ZeroQuant(4+2): Redefining LLMs Quantization with a New FP6-Centric Strategy for Diverse Generative Tasks",
    "Wu et al.",
    2023,
    "arXiv:2312.08583",
    parts="e3m2 with one scale a row, 4+2 storage and bias shift",
    departs="Planes follow the packing order of the library; the pre-permutation for a GPU's threads is left out.",
    records=("fp6-4plus2",),
)

fp6, fp5 = (
    register("quantizer", name, WU)(Scheme(element, Blocks((0,)), absmax, scale_quantizer=cast(float16)))
    for name, element in (("fp6", float6_e3m2fn), ("fp5", minifloat("e3m1f", 3, 1, specials="numbers")))
)


@register("storage", "4plus2", WU)
def split_planes(codes: Tensor, bits: int = 6, low: int = 2) -> tuple[Tensor, Tensor]:
    """The upper ``bits - low`` bits and the lower ``low`` bits of every code, each packed on its own (4 + 2 for fp6).

    Shapes:
        result  (ceil(n * (bits - low) / 8),) and (ceil(n * low / 8),) uint8

    Raises:
        ShapeError: low is not between 1 and bits - 1.
    """
    if not 0 < low < bits:
        raise ShapeError(f"a lower plane of {low} of {bits} bits; it takes 1 to {bits - 1}")
    return pack(codes >> low, bits - low), pack(codes & (1 << low) - 1, low)


def join_planes(upper: Tensor, lower: Tensor, count: int, bits: int = 6, low: int = 2) -> Tensor:
    """The inverse of ``split_planes``.

    Raises:
        CheckpointError: a plane does not have the bytes that ``count`` codes take.
    """
    for plane, width in ((upper, bits - low), (lower, low)):
        if plane.numel() != packed_nbytes(count, width):
            raise CheckpointError(f"{count} codes of {width} bits take {packed_nbytes(count, width)} bytes, got {plane.numel()}")
    return unpack(upper, bits - low, count) << low | unpack(lower, low, count)


def as_float16(codes: Tensor) -> Tensor:
    """e3m2 codes as float16 by moving bits alone: S to bit 15, EEE to 12..10, MM to 9..8; the numbers are those of e3m2 * 2**-12.

    Normal and subnormal numbers come out right, the latter as subnormals of float16 that must not be flushed.
    """
    word = codes.to(torch.int32)
    return ((word & 0x20) << 10 | (word & 0x1F) << 8).to(torch.int16).view(torch.float16)
