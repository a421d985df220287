"""Packing: codes of any width from 1 to 32 bits as one little-endian bit stream.

The order, cited by every kernel: codes are taken in row-major order of the tensor; code number i of
width b occupies the bits i*b ... i*b + b - 1 of the stream, its least significant bit first; bit k of the
stream is bit k mod 8 (value 2**(k mod 8)) of byte k div 8. The last byte is filled with zero bits.
So two 4-bit codes share a byte with the first code in the low nibble. Codes are numbers from 0 to 2**b - 1;
those of 32 bits are kept in int32, where the upper half of them is negative.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowbit.errors import CheckpointError, ShapeError


def packed_nbytes(count: int, bits: int) -> int:
    """Bytes taken by ``count`` codes of ``bits`` bits."""
    return (count * bits + 7) // 8


def _layout(bits: int) -> tuple[int, int]:
    """The shortest run of codes that ends on a byte: (codes, bytes)."""
    if not 1 <= bits <= 32:
        raise ShapeError(f"codes of {bits} bits cannot be packed; widths are 1 to 32")
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def _worked_in(bits: int) -> torch.dtype:
    """The integers that hold a code shifted by up to seven bits."""
    return torch.uint8 if bits < 8 else torch.int32 if bits <= 16 else torch.int64


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes in [0, 2**bits) to bytes.

    Shapes:
        codes   any shape, any integer dtype
        result  (ceil(n * bits / 8),) uint8

    Raises:
        ShapeError: bits is not in 1..32.
    """
    per, width = _layout(bits)
    flat = codes.reshape(-1)
    if bits == 8:
        return flat.to(torch.uint8).clone()
    count = flat.numel()
    flat = flat.to(_worked_in(bits)) if bits <= 16 else flat.long() & (1 << bits) - 1
    if count % per:
        flat = torch.cat((flat, flat.new_zeros(per - count % per)))
    rows = flat.reshape(-1, per)
    out = torch.empty(rows.shape[0], width, dtype=torch.uint8, device=codes.device)
    for byte in range(width):
        value = None
        for i in range(byte * 8 // bits, min(per - 1, (byte * 8 + 7) // bits) + 1):
            shift = i * bits - byte * 8
            column = rows[:, i]
            piece = (column << shift if shift >= 0 else column >> -shift) & 0xFF
            value = piece if value is None else value | piece
        assert value is not None
        out[:, byte] = value.to(torch.uint8)
    return out.reshape(-1)[: packed_nbytes(count, bits)].clone()


def unpack(data: Tensor, bits: int, count: int) -> Tensor:
    """Bytes back to ``count`` codes: uint8 for up to 8 bits, int32 above.

    Raises:
        CheckpointError: the number of bytes is not what ``count`` codes take.
    """
    per, width = _layout(bits)
    if data.dtype != torch.uint8 or data.numel() != packed_nbytes(count, bits):
        raise CheckpointError(
            f"{count} codes of {bits} bits take {packed_nbytes(count, bits)} bytes (uint8), got {data.numel()} of {data.dtype}"
        )
    flat = data.reshape(-1)
    if bits == 8:
        return flat.clone()
    if flat.numel() % width:
        flat = torch.cat((flat, flat.new_zeros(width - flat.numel() % width)))
    rows = flat.reshape(-1, width)
    rows = rows.to(_worked_in(bits))
    out = torch.empty(rows.shape[0], per, dtype=torch.uint8 if bits < 8 else torch.int32, device=data.device)
    mask = (1 << bits) - 1
    for i in range(per):
        value = None
        for byte in range(i * bits // 8, (i * bits + bits - 1) // 8 + 1):
            shift = byte * 8 - i * bits
            column = rows[:, byte]
            piece = column << shift if shift >= 0 else column >> -shift
            value = piece if value is None else value | piece
        assert value is not None
        out[:, i] = (value & mask).to(out.dtype)
    return out.reshape(-1)[:count].clone()
