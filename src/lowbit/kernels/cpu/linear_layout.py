"""The weight of a linear as ``csrc/packed_linear.h`` holds it: made once at load from a LinearSpec, and turned back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lowbit.errors import ShapeError
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.op import extension
from lowbit.kernels.reference.qlinear_int8 import MOST_COLUMNS, unit_of

TILE_ROWS = 16
TABLE, INTEGER, UNSIGNED, SYMMETRIC = range(4)
FLOAT32, BFLOAT16, FLOAT16, BYTE = range(4)

#: bits of a stored code -> (codes, words) of a unit. Codes of 7 bits are stored in 8
UNITS = {1: (32, 1), 2: (16, 1), 3: (32, 3), 4: (8, 1), 5: (32, 5), 6: (16, 3), 8: (4, 1)}


@dataclass(frozen=True, eq=False)
class PerBlock:
    """One number a block, in the smallest form that holds all of them exactly: [tile][group][16].

    Args:
        store: float32, bfloat16, float16, or bytes: (bits byte << shift) * factor[row].
    """

    data: Tensor
    store: int
    shift: int = 0
    factor: Tensor | None = None

    @property
    def told(self) -> tuple[int, int, int, int]:
        """As the extension takes it."""
        return self.data.data_ptr(), self.store, self.shift, 0 if self.factor is None else self.factor.data_ptr()

    def float(self, rows: int) -> Tensor:
        """The numbers, (rows, groups) float32."""
        match self.store:
            case 0:
                x = self.data
            case 1 | 2:
                x = self.data.view(torch.bfloat16 if self.store == BFLOAT16 else torch.float16).float()
            case _:
                x = (self.data.to(torch.int32) << self.shift).view(torch.float32)
        if self.factor is not None:
            x = x * self.factor.view(-1, 1, TILE_ROWS)
        return x.transpose(1, 2).flatten(0, 1)[:rows]


@dataclass(frozen=True, eq=False)
class PackedLinear:
    """A LinearSpec in the CPU's layout.

    Args:
        bits, table, group: those of the spec.
        stored_bits: of a code as it lies here; wider where the groups would not fill whole words.
        decode: how a stored code becomes a number.
        words: (tiles, groups, units, words, 16) int32.
        lookup: 256 float32 by stored code.
        magnitudes: for SYMMETRIC, the lower and upper bytes of 128 bfloat16 numbers.
        recoded: for stored codes that differ from those of the spec: the stored code of each.
        whole: unit, zero, flip and 64 numbers where integers times a constant are meant, else None.
    """

    rows: int
    columns: int
    bits: int
    table: Tensor
    group: int
    stored_bits: int
    decode: int
    words: Tensor
    lookup: Tensor
    magnitudes: Tensor | None
    recoded: Tensor | None
    scale: PerBlock
    offset: PerBlock | None
    whole: tuple[float, int, int, bytes] | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads: codes, scales of all levels, offsets, the table."""
        parts = [self.words, self.lookup, self.magnitudes, self.scale.data, self.scale.factor]
        parts += [] if self.offset is None else [self.offset.data, self.offset.factor]
        return sum(p.numel() * p.element_size() for p in parts if p is not None)

    @cached_property
    def handle(self) -> Any:
        """``lowbit._cpu.PackedLinear``: the addresses; valid as long as this object."""
        module: Any = extension("lowbit._cpu")
        sizes = [self.rows, self.columns, self.group, self.words.shape[1], self.words.shape[2]]
        magnitudes = 0 if self.magnitudes is None else self.magnitudes.data_ptr()
        offset = (0, 0, 0, 0) if self.offset is None else self.offset.told
        return module.PackedLinear(
            sizes,
            self.stored_bits,
            self.decode,
            self.words.data_ptr(),
            self.lookup.data_ptr(),
            magnitudes,
            self.scale.told,
            offset,
            self.whole,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Copies have addresses of their own."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def refuses(spec: LinearSpec) -> str | None:
    return None if spec.codes.device.type == "cpu" else f"its weight is on {spec.codes.device}"


def run(spec: LinearSpec) -> PackedLinear:
    """As ``prepare``.

    Raises:
        ShapeError: every number of the table is NaN or Inf.
    """
    return prepare(spec)


def prepare(spec: LinearSpec) -> PackedLinear:
    """The CPU layout of a weight. Needs no extension; codes come back from ``unprepare`` bit for bit.

    Raises:
        ShapeError: every number of the table is NaN or Inf.
    """
    rows, columns = spec.codes.shape
    finite = spec.table.isfinite()
    if not bool(finite.any()):
        raise ShapeError("no number of the table is finite")
    bits = _stored_bits(spec)
    decode, recoded, lookup, magnitudes = _decoding(spec, bits)
    codes = spec.codes if recoded is None else recoded[spec.codes.long()]
    nearest = torch.where(finite, spec.table.abs(), torch.inf).argmin()
    filler = int(nearest if recoded is None else recoded[nearest])
    words = _pack(codes, bits, spec.group, filler)
    scale = _per_block(spec.scale, spec.factor)
    offset = None if spec.offset is None else _per_block(spec.offset, None)
    whole = _whole(spec, bits, decode)
    return PackedLinear(
        rows, columns, spec.bits, spec.table, spec.group, bits, decode, words, lookup, magnitudes, recoded, scale, offset, whole
    )  # fmt: skip


def unprepare(packed: PackedLinear) -> LinearSpec:
    """The spec that ``prepare`` was given; two levels of scales come back as their product."""
    codes = _unpack(packed)
    if packed.recoded is not None:
        back = torch.zeros(256, dtype=torch.uint8)
        back[packed.recoded.long()] = torch.arange(len(packed.recoded), dtype=torch.uint8)
        codes = back[codes.long()]
    offset = None if packed.offset is None else packed.offset.float(packed.rows)
    return LinearSpec(codes, packed.bits, packed.table, packed.scale.float(packed.rows), packed.group, offset)


def parts_of(packed: PackedLinear, count: int) -> tuple[PackedLinear, ...]:
    """A weight in so many parts of equal rows, whole tiles each; they share its memory."""
    tiles = len(packed.words) // count

    def of(block: PerBlock, i: int) -> PerBlock:
        factor = None if block.factor is None else block.factor[i * tiles * TILE_ROWS : (i + 1) * tiles * TILE_ROWS]
        return dataclasses.replace(block, data=block.data[i * tiles : (i + 1) * tiles], factor=factor)

    if count == 1:
        return (packed,)
    made = []
    for i in range(count):
        words, offset = packed.words[i * tiles : (i + 1) * tiles], None if packed.offset is None else of(packed.offset, i)
        made.append(dataclasses.replace(packed, rows=packed.rows // count, words=words, scale=of(packed.scale, i), offset=offset))
    return tuple(made)


def _stored_bits(spec: LinearSpec) -> int:
    """The width that takes the fewest bytes, groups filled up to whole units."""
    widths = [b for b in UNITS if b >= spec.bits]
    return min(widths, key=lambda b: (b * UNITS[b][0] * -(-spec.group // UNITS[b][0]), b))


def _decoding(spec: LinearSpec, bits: int) -> tuple[int, Tensor | None, Tensor, Tensor | None]:
    """How codes are decoded, the stored code of each, the 256 numbers by stored code, and bytes of magnitudes."""
    table, count = spec.table, len(spec.table)
    if bits < 8:
        full = torch.zeros(1 << bits)
        full[:count] = table
        return TABLE, None, full.repeat(256 >> bits), None
    signs = torch.signbit(table)
    whole = bool((table == table.round()).all()) and not bool((signs & (table == 0)).any()) and len(table.unique()) == count
    recoded, magnitudes, decode = None, None, TABLE
    if whole and -128 <= float(table.min()) and float(table.max()) <= 127:
        decode, recoded = INTEGER, table.to(torch.int8).view(torch.uint8)
    elif whole and float(table.min()) >= 0 and float(table.max()) <= 255:
        decode, recoded = UNSIGNED, table.to(torch.uint8)
    elif bool((table.isnan() | (table.bfloat16().float() == table)).all()):
        halves = table.bfloat16().view(torch.int16).to(torch.int32) & 0x7FFF
        known, rank = halves.unique(return_inverse=True)
        if len(known) <= 128:
            decode, recoded = SYMMETRIC, (rank + 128 * signs).to(torch.uint8)
            padded = torch.zeros(128, dtype=torch.int32)
            padded[: len(known)] = known
            magnitudes = torch.cat([padded & 0xFF, padded >> 8]).to(torch.uint8)
            if len(recoded.unique()) < count:  # a number twice: codes would not come back
                decode, recoded, magnitudes = TABLE, None, None
    full = torch.zeros(256)
    full[(torch.arange(count) if recoded is None else recoded.long())] = table
    return decode, recoded, full, magnitudes


def _whole(spec: LinearSpec, bits: int, decode: int) -> tuple[float, int, int, bytes] | None:
    """What products of integers need, None where the table or the group does not allow them."""
    unit = unit_of(spec.table)
    if unit is None or spec.group > MOST_COLUMNS:
        return None
    steps = (spec.table.double() / unit).long()
    zero = max(0, -int(steps.min()))
    if bits == 8:  # stored as the integers themselves; a power of two more or less in the unit changes no result
        flip = {INTEGER: 128, UNSIGNED: 0}.get(decode)
        return None if flip is None else (1.0, flip, flip, b"")
    full = torch.zeros(1 << bits, dtype=torch.uint8)
    full[: len(steps)] = (steps + zero).to(torch.uint8)
    return unit, zero, 0, bytes(full.repeat(64 >> bits).tolist())


def _per_block(values: Tensor, factor: Tensor | None) -> PerBlock:
    """The smallest exact form."""
    full = values if factor is None else values * factor.unsqueeze(-1)
    for known in (factor, None):
        if (found := _as_bytes(values if known is factor else full, known, full)) is not None:
            return found
    bits = _tiled(full).contiguous()
    for store, dtype in ((BFLOAT16, torch.bfloat16), (FLOAT16, torch.float16)):
        narrow = bits.to(dtype)
        if torch.equal(narrow.float(), bits):
            return PerBlock(narrow.view(torch.int16), store)
    return PerBlock(bits, FLOAT32)


def _as_bytes(values: Tensor, factor: Tensor | None, full: Tensor) -> PerBlock | None:
    """As bytes (exponent, mantissa) times a number a row, None where that is not exact."""
    bits = values.contiguous().view(torch.int32)
    used = bits[bits != 0]
    if used.numel() == 0 or bool((used < 1 << 23).any()) or bool((used >= 0x7F800000).any()):
        return None  # also those with a sign
    digits = 8
    while digits and bool(((used & ((1 << (24 - digits)) - 1)) == 0).all()):
        digits -= 1  # of the mantissa, 0 to 8
    exponents = used >> 23
    least = int(exponents.min())
    if digits > 7 or int(exponents.max()) - least + 1 >= 1 << (8 - digits):
        return None
    shift = 23 - digits
    data = torch.where(bits == 0, 0, (bits - ((least - 1) << 23)) >> shift).to(torch.uint8)
    power = 2.0 ** (least - 1)
    rows = torch.ones(len(values)) if factor is None else factor
    scaled = (rows.double() * power).float()
    block = PerBlock(_tiled(data).contiguous(), BYTE, shift, _padded(scaled, TILE_ROWS).contiguous())
    return block if torch.equal(block.float(len(values)), full) else None


def _padded(x: Tensor, multiple: int, value: int = 0) -> Tensor:
    """Filled up along the first axis."""
    more = -len(x) % multiple
    return x if not more else torch.cat([x, torch.full((more, *x.shape[1:]), value, dtype=x.dtype)])


def _tiled(per_block: Tensor) -> Tensor:
    """(rows, groups) to (tiles, groups, 16)."""
    return _padded(per_block, TILE_ROWS).unflatten(0, (-1, TILE_ROWS)).transpose(1, 2)


def _pack(codes: Tensor, bits: int, group: int, filler: int) -> Tensor:
    """(rows, columns) codes to (tiles, groups, units, words, 16) int32."""
    count, words = UNITS[bits]
    columns = codes.shape[1]
    groups, units = -(-columns // group), -(-group // count)
    tiles = _padded(codes, TILE_ROWS, filler)
    full = torch.full((len(tiles), groups * group), filler, dtype=torch.uint8)
    full[:, :columns] = tiles
    stored = torch.full((len(tiles), groups, units * count), filler, dtype=torch.uint8)
    stored[:, :, :group] = full.view(len(tiles), groups, group)
    parts = stored.view(-1, TILE_ROWS, groups, units, count).permute(0, 2, 3, 4, 1)  # tiles, groups, units, codes, 16
    out = torch.zeros(*parts.shape[:3], words, TILE_ROWS, dtype=torch.int32)
    for i in range(count):
        word, shift = divmod(i * bits, 32)
        code = parts[:, :, :, i].int()
        out[:, :, :, word] |= code << shift
        if shift + bits > 32:
            out[:, :, :, word + 1] |= code >> (32 - shift)
    return out


def _unpack(packed: PackedLinear) -> Tensor:
    """The stored codes, (rows, columns) uint8."""
    bits = packed.stored_bits
    count, _ = UNITS[bits]
    tiles, groups, units = packed.words.shape[:3]
    stored = torch.empty(tiles, TILE_ROWS, groups, units, count, dtype=torch.uint8)
    words = packed.words.long() & 0xFFFFFFFF
    for i in range(count):
        word, shift = divmod(i * bits, 32)
        code = words[:, :, :, word] >> shift
        if shift + bits > 32:
            code = code | words[:, :, :, word + 1] << (32 - shift)
        stored[..., i] = (code & ((1 << bits) - 1)).to(torch.uint8).permute(0, 3, 1, 2)
    rows = stored.view(tiles * TILE_ROWS, groups, -1)[:, :, : packed.group]
    return rows.flatten(1)[: packed.rows, : packed.columns].contiguous()
