"""Matryoshka slicing: the codes of fewer bits that lie in the upper bits of a code, rounded and held in range."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.integer import INTEGERS
from lowbit.quantizers.grid import QTensor, dense

NAIR = Source(
    "Matryoshka Quantization",
    "Nair et al.",
    2025,
    "arXiv:2502.06786",
    parts="the slice, saturated or with extra precision; the same slice in MatGPTQ, arXiv:2602.03537",
    records=("matquant", "matgptq"),
)


def _checked(bits: int, master: int) -> int:
    if not 1 <= bits <= master <= 16:
        raise UnsupportedError(f"{bits} bits out of codes of {master} bits; it takes 1 <= bits <= master <= 16")
    return master - bits


@register("storage", "matryoshka", NAIR)
def slice_codes(codes: Tensor, bits: int, master: int = 8, *, saturate: bool = True) -> Tensor:
    """t = min((q >> d) + ((q >> d-1) & 1), 2**bits - 1) with d = master - bits: round half up, saturate.

    Shapes:
        codes   any, unsigned master codes (two's complement ones after adding 2**(master-1))
        result  the same, of the dtype of codes

    Args:
        saturate: without, the top bucket 2**bits is allowed (the "extra precision" variant).

    Raises:
        UnsupportedError: bits is not between 1 and master.
    """
    d = _checked(bits, master)
    if d == 0:
        return codes.clone()
    q = codes.to(torch.int32)
    t = (q >> d) + (q >> d - 1 & 1)
    return (t.clamp(max=2**bits - 1) if saturate else t).to(codes.dtype)


def sliced(codes: Tensor, bits: int, master: int = 8, *, saturate: bool = True) -> Tensor:
    """The sliced codes back on the master's scale, t * 2**(master - bits), int32: subtract the master's zero, multiply by its scale.

    Raises:
        UnsupportedError: bits is not between 1 and master.
    """
    return slice_codes(codes.to(torch.int32), bits, master, saturate=saturate) << _checked(bits, master)


def sliceable(q: QTensor) -> bool:
    """Whether ``slice_tensor`` takes it: int8 and the like with scales, or uint8 with a zero point."""
    master = q.grid.format
    signed = master == INTEGERS.get(f"int{master.bits}")
    return ((signed and q.grid.zero is None) or master == INTEGERS.get(f"uint{master.bits}")) and q.grid.scale is not None


def slice_tensor(q: QTensor, bits: int, *, saturate: bool = True) -> QTensor:
    """An integer tensor with the upper ``bits`` bits of its codes, as a quantized tensor of its own that packs in ``bits`` bits.

    With t the slices of the codes counted from the smallest integer, x = s * (t * 2**d - z) = (s * 2**d) * (t - z / 2**d): the scale
    grows by 2**d; a zero point that is no whole number then becomes an offset.

    Raises:
        UnsupportedError: its format is no integer of all codes, or has fewer bits.
    """
    master = q.grid.format
    signed = master == INTEGERS.get(f"int{master.bits}")
    if not sliceable(q) or q.grid.scale is None:
        raise UnsupportedError(f"slices of {master.name}; it takes int8, or uint8 with a zero point, with scales")
    d = _checked(bits, master.bits)
    half = 1 << master.bits - 1
    t = slice_codes(q.codes.int() ^ (half if signed else 0), bits, master.bits, saturate=saturate)
    scale = dense(q.grid.scale)
    grid = replace(q.grid, format=INTEGERS[f"{'' if signed else 'u'}int{bits}"], scale=scale * 2.0**d)
    if q.grid.zero is not None:
        grid = replace(grid, zero=None, offset=-scale * q.grid.zero)
    return QTensor((t ^ (1 << bits - 1 if signed else 0)).to(q.codes.dtype), grid)


def slice_rest(q: QTensor, bits: int) -> Tensor:
    """What is left of each code beside its slice: r = q - (t << d) + 2**(d - 1), which takes d + 1 bits, d = master - bits.

    One bit more than the slice leaves out: a slice is rounded, and its top bucket takes half a bucket more.

    Raises:
        UnsupportedError: bits is not between 1 and one less than the master's.
    """
    master = q.grid.format.bits
    d = _checked(bits, master - 1) + 1
    upper = q.codes.int() ^ (1 << master - 1 if q.grid.format == INTEGERS.get(f"int{master}") else 0)
    return (upper - sliced(upper, bits, master) + (1 << d - 1)).to(q.codes.dtype)


def joined(t: Tensor, rest: Tensor, bits: int, master: int, *, signed: bool) -> Tensor:
    """The codes whose slice and rest these are.

    Args:
        t: codes as ``slice_tensor`` has them.
    """
    d = master - bits
    q = ((t.int() ^ (1 << bits - 1 if signed else 0)) << d) + rest.int() - (1 << d - 1)
    return (q ^ (1 << master - 1 if signed else 0)).to(t.dtype)
