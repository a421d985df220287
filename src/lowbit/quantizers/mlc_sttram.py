"""MLC STT-RAM storage of float16 numbers below 2: the sign is kept twice, in its own bit and in the free bit beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError

JASEMI = Source(
    "Reliable and Energy Efficient MLC STT-RAM Buffer for CNN Accelerators",
    "Jasemi, Hessabi, Bagherzadeh",
    2020,
    "arXiv:2001.08806",
    parts="sign duplication",
    departs="The rewrites of the other cells (rotation, rounding) are not here.",
    records=("mlc-sttram",),
)


@register("storage", "mlc_sttram", JASEMI)
def protect(x: Tensor) -> Tensor:
    """The float16 words of x with bit 14 (zero below 2) holding a copy of the sign, so that the first 2-bit cell is 00 or 11.

    Shapes:
        x       any, float16
        result  the same, int16

    Raises:
        UnsupportedError: a magnitude of 2 or more, or a NaN, whose bit 14 is not free.
    """
    word = x.half().view(torch.int16).to(torch.int32) & 0xFFFF
    if bool((word & 0x4000).any()):
        raise UnsupportedError(f"a magnitude of {float(x.abs().max()):g}; the sign is copied into a bit that is free below 2 only")
    word = word | word >> 1 & 0x4000
    return torch.where(word > 0x7FFF, word - 0x10000, word).to(torch.int16)


def recover(words: Tensor) -> Tensor:
    """The inverse of ``protect``: the sign is read from bit 15, bit 14 is cleared."""
    return (words & ~0x4000).view(torch.float16)


def soft_cells(words: Tensor) -> Tensor:
    """How many of the eight 2-bit cells of each 16-bit word hold 01 or 10, the slow and error-prone states."""
    word = words.to(torch.int32) & 0xFFFF
    differing = (word ^ word >> 1) & 0x5555
    return sum(((differing >> 2 * i & 1) for i in range(8)), torch.zeros_like(word))
