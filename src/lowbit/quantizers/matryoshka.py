"""Matryoshka slicing: the codes of fewer bits that lie in the upper bits of a code, rounded and held in range."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError

NAIR = Source(
    "Matryoshka Quantization",
    "Nair et al.",
    2025,
    "arXiv:2502.06786",
    parts="Eq. 4 and 8 (slice, saturated or with extra precision); the same slice in MatGPTQ, arXiv:2602.03537",
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
