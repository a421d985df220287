"""The weight of a linear as tensor cores read it: made once at load from a LinearSpec, and turned back.

A tile is 16 rows by 64 columns of 4-bit codes (32 columns of 8-bit codes): 32 lanes of 4 words, and lane l = 4 g + t of a warp holds
what it multiplies, rows g and g + 8 and of each chunk of 32 columns the eight from 8 t on. In a chunk, column 8 t + 4 s + 2 c + p and
row g + 8 h are number p of register c + 2 h of step s; ``decoding.py`` says where in a word that is. So nothing moves between threads
from memory to the product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.errors import ShapeError
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.op import interpreted
from lowbit.kernels.triton.decoding import assembly, integers, kind_of, places, recoded

ROWS = 16
LANES = 32

#: bits of a stored code -> columns of a tile
COLUMNS = {4: 64, 8: 32}

#: rows of x that are multiplied with codes: in the registers of each warp, and with x in shared memory; beyond, with numbers
FEW, SOME = 32, 192

#: scales of so many columns or more multiply sums, those of fewer multiply weights
WIDE = 64


@dataclass(frozen=True, eq=False)
class PackedLinear:
    """A LinearSpec in this layout.

    Shapes:
        words   (row tiles, column tiles, 32, 4) int32
        scale   (rows filled up, groups) float32 for groups of WIDE columns or more; else uint8 or bfloat16, seen as int32, of
                (row tiles, 64 columns, g, groups of 32 columns, h and 32 columns)
        offset  as a wide scale
        factor  (rows,) float32: what multiplies a row besides

    Args:
        bits, table, group: those of the spec.
        stored_bits: of a code as it lies here, 4 or 8.
        stored: the number of each stored code.
        kind: how codes lie in words, see ``decoding.places``.
        recoded: for stored codes that differ from those of the spec: the stored code of each.
        shift, lift: narrow scales are bytes: a bfloat16 number with the bits byte << shift times 2**lift; None where they are numbers.
    """

    rows: int
    columns: int
    bits: int
    table: Tensor
    group: int
    stored_bits: int
    stored: tuple[float, ...]
    recoded: Tensor
    words: Tensor
    scale: Tensor
    shift: int | None
    lift: int
    offset: Tensor | None
    factor: Tensor | None
    kind: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def device(self) -> torch.device:
        return self.words.device

    @property
    def many(self) -> str:
        """What multiplies many rows of x."""
        return f"Triton up to {SOME} rows, from there on torch on the weight decoded anew"

    @property
    def wide(self) -> bool:
        """Whether scales multiply sums."""
        return self.group >= WIDE

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        parts = (self.words, self.scale, self.offset, self.factor)
        return sum(p.numel() * p.element_size() for p in parts if p is not None)


def refuses(spec: LinearSpec) -> str | None:
    """Why there is no such layout of a weight."""
    wanted = "cpu" if interpreted() else "cuda"
    if spec.codes.device.type != wanted:
        return f"the weight is on {spec.codes.device}, not on a CUDA device"
    columns = spec.codes.shape[1]
    if columns % 64:
        return f"{columns} columns, not a multiple of 64"
    narrow = spec.group in (16, 32)
    if not narrow and (spec.group % WIDE or (columns % spec.group and spec.group != columns)):
        return f"groups of {spec.group} columns; 16, 32 and multiples of 64 that divide the row are possible"
    if narrow and spec.offset is not None:
        return f"offsets for groups of {spec.group} columns; those of {WIDE} or more are possible"
    stored_bits = 4 if spec.bits <= 4 else 8
    stored = _stored(spec, stored_bits)
    if assembly(stored, stored_bits, torch.bfloat16) is None:
        return f"a table of {len(spec.table)} numbers that is neither integers nor a minifloat in bfloat16"
    if not bool(spec.table.to(spec.codes.device)[spec.codes.long()].isfinite().all()):
        return "a number of the weight is not finite"
    return None


def run(spec: LinearSpec) -> PackedLinear:
    """The layout of a weight; codes come back from ``unprepare`` bit for bit.

    Raises:
        ShapeError: there is none, see ``refuses``.
    """
    reason = refuses(spec)
    if reason is not None:
        raise ShapeError(reason)
    rows, columns = spec.codes.shape
    bits = 4 if spec.bits <= 4 else 8
    codes, stored = recoded(spec.table.cpu(), bits), _stored(spec, bits)
    kind = kind_of(stored, bits)
    filled = _filled(codes.to(spec.codes.device)[spec.codes.long()])
    words = _pack(filled, bits, kind)
    factor, shift, lift = None, None, 0
    if spec.group >= WIDE:
        scale = _filled(spec.scales).contiguous()
    else:
        scale, shift, lift, factor = _narrow(spec)
    offset = None if spec.offset is None else _filled(spec.offset).contiguous()
    return PackedLinear(
        rows, columns, spec.bits, spec.table, spec.group, bits, stored, codes, words, scale, shift, lift, offset, factor, kind
    )  # fmt: skip


def unprepare(packed: PackedLinear) -> LinearSpec:
    """The spec that ``run`` was given; two levels of scales come back as their product, narrow ones as they are stored here."""
    codes = _unpack(packed)[: packed.rows]
    back = torch.zeros(256, dtype=torch.uint8)
    back[packed.recoded.long()] = torch.arange(len(packed.recoded), dtype=torch.uint8)
    offset = None if packed.offset is None else packed.offset[: packed.rows]
    return LinearSpec(
        back.to(codes.device)[codes.long()], packed.bits, packed.table, scales_of(packed), packed.group, offset
    )  # fmt: skip


def scales_of(packed: PackedLinear) -> Tensor:
    """All levels of scales together, (rows, groups) float32."""
    if packed.wide:
        return packed.scale[: packed.rows]
    kept = torch.bfloat16 if packed.shift is None else torch.uint8
    scale = packed.scale.view(kept).unflatten(-1, (2, 2))
    tiles, chunks, _, halves, _, _ = scale.shape
    if packed.shift is not None:
        scale = (scale.int() << packed.shift).to(torch.int16).view(torch.bfloat16).float() * 2.0**packed.lift
    scale = scale.float().permute(0, 4, 2, 1, 5, 3).reshape(tiles * ROWS, chunks * 2 * halves)[: packed.rows]
    return scale if packed.factor is None else scale * packed.factor[: packed.rows, None]


def _stored(spec: LinearSpec, bits: int) -> tuple[float, ...]:
    """The number of each stored code, zeros where there is none."""
    full, table = torch.zeros(1 << bits), spec.table.cpu()
    full[recoded(table, bits).long()] = table
    zero = integers(table.sort().values)
    if zero is not None and len(table.unique()) == len(table):  # integers go on
        full = torch.arange(1 << bits).float() - zero
    return tuple(full.tolist())


def _filled(x: Tensor) -> Tensor:
    """Rows filled up to whole tiles."""
    return torch.nn.functional.pad(x, (0, 0, 0, -len(x) % ROWS))


def _views(codes: Tensor, bits: int) -> Tensor:
    """Codes as (row tiles, column tiles, g, t, words, registers of a word, p)."""
    rows, columns = codes.shape
    wide = COLUMNS[bits]
    split = codes.view(rows // ROWS, 2, 8, columns // wide, wide // 32, 4, 2, 2, 2)  # R h g | C chunk t s c p
    if bits == 4:  # words (chunk, s), registers (h, c)
        return split.permute(0, 3, 2, 5, 4, 6, 1, 7, 8).reshape(rows // ROWS, columns // wide, 8, 4, 4, 4, 2)
    return split.permute(0, 3, 2, 5, 4, 6, 1, 7, 8).reshape(rows // ROWS, columns // wide, 8, 4, 4, 2, 2)  # words (s, h), registers c


def _pack(codes: Tensor, bits: int, kind: int) -> Tensor:
    """(rows, columns) codes to (row tiles, column tiles, 32, 4) words."""
    parts = _views(codes, bits)
    words = torch.zeros(parts.shape[:5], dtype=torch.int64, device=codes.device)
    for i, pair in enumerate(places(bits, kind)):
        for p, ats in enumerate(pair):
            code = parts[..., i, p].to(torch.int64)
            for k, at in enumerate(ats):
                words |= (code >> k & 1) << at
    words = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    return words.flatten(2, 3).contiguous()


def _unpack(packed: PackedLinear) -> Tensor:
    """The stored codes, (rows filled up, columns) uint8."""
    words = packed.words

    def code(ats: tuple[int, ...]) -> Tensor:
        found = torch.zeros(words.shape, dtype=torch.uint8, device=words.device)
        for k, at in enumerate(ats):
            found |= ((words >> at & 1) << k).to(torch.uint8)
        return found

    parts = torch.stack([torch.stack([code(ats) for ats in pair], -1) for pair in places(packed.stored_bits, packed.kind)], -2)
    R, C = words.shape[:2]
    wide = COLUMNS[packed.stored_bits]
    split = parts.view(R, C, 8, 4, wide // 32, 2, 2, 2, 2)  # R C g t chunk s h c p
    return split.permute(0, 6, 2, 1, 4, 3, 5, 7, 8).reshape(R * ROWS, packed.columns)


def _narrow(spec: LinearSpec) -> tuple[Tensor, int | None, int, Tensor | None]:
    """Scales of few columns: bytes where those hold all of them exactly, else bfloat16 numbers; and what multiplies rows."""
    found = _as_bytes(spec.scale)
    if found is None:
        data, shift, lift, factor = spec.scales.bfloat16(), None, 0, None
    else:
        data, shift, lift, power = found
        rows = torch.ones(len(data), device=data.device) if spec.factor is None else spec.factor
        factor = torch.ldexp(rows, torch.tensor(power, device=rows.device)).float()
    filled = _filled(data)
    tiled = filled.view(len(filled) // ROWS, 2, 8, -1, 2, 32 // spec.group).permute(0, 3, 2, 5, 1, 4).flatten(-2).contiguous()
    return tiled.view(torch.int32), shift, lift, factor


def _as_bytes(values: Tensor) -> tuple[Tensor, int, int, int] | None:
    """Bytes with a shift, a lift and a power: each value is the bfloat16 number of bits byte << shift, times 2**lift, times 2**power.

    The lift brings the largest to one, so that products in bfloat16 stay in its range.
    """
    bits = values.contiguous().view(torch.int32)
    used = bits[bits != 0]
    if used.numel() == 0 or bool((used < 1 << 23).any()) or bool((used >= 0x7F800000).any()) or bool((used & 0xFFFF).any()):
        return None
    digits = next((d for d in range(8) if not bool((used & ((1 << (23 - d)) - 1)).any())), 8)  # of the mantissas
    exponents = used >> 23
    least, most = int(exponents.min()), int(exponents.max())
    extent = most - least + 1
    if digits > 7 or extent >= min(1 << (8 - digits), 64):
        return None
    data = torch.where(bits == 0, 0, (bits - ((least - 1) << 23)) >> (23 - digits)).to(torch.uint8)
    lift = 127 - extent
    return data, 7 - digits, lift, least - 1 - lift
