"""Mixed-radix packing: codes with a number of levels that is no power of two, several as digits of one word.

Digits are taken in row-major order, ``digits`` to a word, the first the least significant; the words are packed in
``bits`` bits as in ``packing.py``. The last word is filled with zero digits. 5 trits fit a byte (1.6 bits each),
2 digits of 11 levels 7 bits (3.5 bits each).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lowbit.errors import CheckpointError, ShapeError
from lowbit.packing import pack, packed_nbytes, unpack


class Radix(NamedTuple):
    """``digits`` codes of ``levels`` levels share a word of ``bits`` bits."""

    levels: int
    digits: int
    bits: int

    @property
    def bits_per_code(self) -> float:
        """3.5 for 2 codes of 11 levels."""
        return self.bits / self.digits


def radix(levels: int, digits: int | None = None) -> Radix:
    """The layout for a number of levels; without ``digits`` the one with the fewest bits a code, and of equals the shortest.

    Raises:
        ShapeError: fewer than 2 levels, or a word of more than 16 bits.
    """
    if levels < 2:
        raise ShapeError(f"codes of {levels} levels; there are at least 2")
    choices = [Radix(levels, n, (levels**n - 1).bit_length()) for n in (range(1, 17) if digits is None else (digits,))]
    fitting = [r for r in choices if r.digits > 0 and r.bits <= 16]
    if not fitting:
        raise ShapeError(f"{digits or 1} codes of {levels} levels do not fit a word of 16 bits")
    return min(fitting, key=lambda r: (r.bits_per_code, r.digits))


def radix_nbytes(count: int, layout: Radix) -> int:
    """Bytes taken by ``count`` codes."""
    return packed_nbytes(-(-count // layout.digits), layout.bits)


def pack_radix(codes: Tensor, layout: Radix) -> Tensor:
    """Codes below ``levels`` to bytes.

    Shapes:
        codes   any shape, any integer dtype
        result  (radix_nbytes(n),) uint8

    Raises:
        ShapeError: a code is not below ``levels``.
    """
    flat = codes.reshape(-1).to(torch.int32)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < layout.levels:
        raise ShapeError(f"codes from {int(flat.min())} to {int(flat.max())} are not all in 0..{layout.levels - 1}")
    rows = torch.nn.functional.pad(flat, (0, -flat.numel() % layout.digits)).reshape(-1, layout.digits)
    places = torch.tensor([layout.levels**i for i in range(layout.digits)], dtype=torch.int32, device=codes.device)
    return pack((rows * places).sum(1, dtype=torch.int32), layout.bits)


def unpack_radix(data: Tensor, layout: Radix, count: int) -> Tensor:
    """Bytes back to ``count`` codes, uint8 up to 256 levels and int32 above.

    Raises:
        CheckpointError: the number of bytes is not what ``count`` codes take, or a word holds more than its digits can say.
    """
    words = unpack(data, layout.bits, -(-count // layout.digits)).to(torch.int32)
    if words.numel() and int(words.max()) >= layout.levels**layout.digits:
        below = layout.levels**layout.digits
        raise CheckpointError(f"a word of {int(words.max())}; {layout.digits} digits of {layout.levels} levels stay below {below}")
    digits = torch.stack([words // layout.levels**i % layout.levels for i in range(layout.digits)], -1)
    return digits.reshape(-1)[:count].to(torch.uint8 if layout.levels <= 256 else torch.int32)
