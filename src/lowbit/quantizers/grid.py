"""Grid and QTensor: what each element of a tensor may be, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.errors import CheckpointError, ShapeError
from lowbit.formats.format import Format, Overflow
from lowbit.formats.table import TableFormat
from lowbit.kernels.grid_spec import Units
from lowbit.kernels.op import DEQUANTIZE, ENCODE, PACK, UNPACK
from lowbit.packing import pack, packed_nbytes, unpack
from lowbit.quantizers.lowering import decoded_of, numbers_of
from lowbit.rounding.ieee754 import down, nearest_even, up
from lowbit.rounding.rounding import Gap, Rounding


@dataclass(frozen=True, eq=False)
class Grid:
    """The numbers that each element of a tensor may take: x = scale * (value - zero) + offset.

    The arithmetic is float32, in this order, each step rounded once::

        choose      y = (x - offset) / scale      (or (x - offset) * inverse)
        decode      x = (value - zero) * scale + offset

    Where a scale is zero, y is zero and so is the decoded number. A zero point moves the codes after rounding:
    code = round(y) + zero, saturated.

    Shapes:
        scale       blocks.counts(shape), float32 or a QTensor
        zero        as scale, integers in the range of the format
        offset      offset_blocks.counts(shape) (the blocks of the scale by default), in units of x
        negative    as scale: the scale of negative numbers
        table       as scale, int64: which alternative table a block uses
        inverse     as scale: what x is multiplied with to choose codes, where that is not 1 / scale
        order       (columns,) int64: the blocks are those of x[..., order]
    """

    format: Format
    blocks: Blocks
    shape: tuple[int, ...]
    scale: Tensor | QTensor | None = None
    zero: Tensor | None = None
    offset: Tensor | QTensor | None = None
    offset_blocks: Blocks | None = None
    negative: Tensor | QTensor | None = None
    table: Tensor | None = None
    inverse: Tensor | None = None
    order: Tensor | None = None
    overflow: Overflow = "saturate"

    def _split(self, x: Tensor) -> Tensor:
        return self.blocks.split(x if self.order is None else x[..., self.order])

    def _merge(self, blocks: Tensor) -> Tensor:
        x = self.blocks.merge(blocks, self.shape)
        if self.order is None:
            return x
        out = torch.empty_like(x)
        out[..., self.order] = x
        return out

    def _offset(self) -> Tensor | None:
        """The offset against the blocks of the scale: (*counts, 1) or (*counts, elements)."""
        if self.offset is None:
            return None
        offset = dense(self.offset)
        if self.offset_blocks is None or self.offset_blocks == self.blocks:
            return offset.unsqueeze(-1)
        return self.blocks.split(self.offset_blocks.expand(offset, self.shape))

    def units(self) -> Units | str:
        """One value a block of everything beside the format, or why there is none."""
        if self.table is not None or self.order is not None:
            return "blocks have tables of their own" if self.order is None else "the columns are in another order"
        whole = self.offset_blocks is not None and self.offset_blocks.size is None
        if self.offset is not None and self.offset_blocks not in (None, self.blocks) and not whole:
            return f"offsets have blocks of their own, {self.offset_blocks}"
        values = (self.scale, self.zero, self.offset, self.negative, self.inverse)
        found = Units(*(None if v is None else dense(v) for v in values))
        if not whole or found.offset is None:
            return found
        return found._replace(offset=found.offset.expand(self.blocks.counts(self.shape)))

    def choose(self, x: Tensor, rounding: Rounding = nearest_even, noise: Tensor | None = None) -> QTensor:
        """The codes of x.

        Shapes:
            x       ``shape``, any float dtype; compared in float32 (float64 stays)
            noise   ``shape``, 32-bit words

        Raises:
            ShapeError: x does not have the grid's shape.
        """
        if tuple(x.shape) != tuple(self.shape):
            raise ShapeError(f"the grid was made for {tuple(self.shape)}, the tensor is {tuple(x.shape)}")
        if self.table is not None and type(self.format) is TableFormat:
            return QTensor(self._by_table(lambda grid: grid.choose(x, rounding, noise).codes), self)
        told = (x, numbers_of(self.format, rounding, self.overflow), self.blocks, self.units(), noise)
        kernel = ENCODE.kernel(*told)
        if kernel is not None:
            return QTensor(kernel.run(*told), self)
        y = self._split(x if x.dtype == torch.float64 else x.float())
        words = None if noise is None else self._split(noise)
        offset = self._offset()
        if offset is not None:
            y = y - offset
        y = self._in_units(y)
        table = None if self.table is None else self.table.unsqueeze(-1)
        if self.zero is None:
            codes = self.format.encode(y, rounding, words, table, self.overflow)
        else:
            zero = self.zero.unsqueeze(-1)
            value = (round_to_integers(y, rounding, words) + zero).clamp(self.format.min, self.format.max)
            codes = self.format.encode(torch.where(torch.isnan(y), torch.nan, value))
        return QTensor(self._merge(codes), self)

    def _by_table(self, result: Callable[[Grid], Tensor]) -> Tensor:
        """What each of the tables in use gives for all elements, taken where an element's block uses it."""
        assert isinstance(self.format, TableFormat) and self.table is not None
        used = self.table.unique().tolist() or [0]
        ways = [result(replace(self, format=self.format.alone(k), table=None)) for k in used]
        if len(ways) == 1:
            return ways[0]
        which = self.blocks.expand(self.table, self.shape)
        if self.order is not None:
            which = torch.empty_like(which).index_copy_(-1, self.order, which)
        out = ways[0]
        for k, way in zip(used[1:], ways[1:], strict=True):
            out = torch.where(which == k, way, out)
        return out

    def _in_units(self, y: Tensor) -> Tensor:
        if self.inverse is not None:
            return y * self.inverse.unsqueeze(-1)
        if self.scale is None:
            return y
        scale = dense(self.scale).unsqueeze(-1)
        if self.negative is not None:
            scale = torch.where(y < 0, dense(self.negative).unsqueeze(-1), scale)
        return torch.where(scale == 0, torch.zeros_like(y), y / scale)

    def dequantize(self, codes: Tensor) -> Tensor:
        """The float32 numbers of codes of this grid."""
        if self.table is not None and type(self.format) is TableFormat:
            return self._by_table(lambda grid: grid.dequantize(codes))
        told = (codes, decoded_of(self.format), self.blocks, self.units())
        kernel = DEQUANTIZE.kernel(*told)
        if kernel is not None:
            return kernel.run(*told)  # type: ignore[no-any-return]
        split = self._split(codes)
        x = self.format.decode(split, None if self.table is None else self.table.unsqueeze(-1))
        if self.zero is not None:
            x = x - self.zero.unsqueeze(-1)
        if self.scale is not None:
            scale = dense(self.scale).unsqueeze(-1)
            if self.negative is not None:
                scale = torch.where(x < 0, dense(self.negative).unsqueeze(-1), scale)
            x = x * scale
        offset = self._offset()
        return self._merge(x if offset is None else x + offset)

    def part(self, rows: slice, columns: slice) -> Grid:
        """The grid of a sub-matrix, with one scale an element: right for every kind of blocks, wasteful for large parts.

        Raises:
            ShapeError: the grid is not that of a matrix.
        """
        if len(self.shape) != 2:
            raise ShapeError(f"part() cuts matrices, the grid is for {self.shape}")

        def cut(values: Tensor | QTensor | None, blocks: Blocks) -> Tensor | None:
            if values is None:
                return None
            full = blocks.expand(dense(values), self.shape)
            if self.order is not None:
                back = torch.empty_like(full)
                back[..., self.order] = full
                full = back
            return full[rows, columns]

        scale = cut(self.scale, self.blocks)
        offset = cut(self.offset, self.offset_blocks or self.blocks)
        shape = torch.Size(torch.empty(self.shape, device="meta")[rows, columns].shape)
        others = [cut(v, self.blocks) for v in (self.zero, self.negative, self.table, self.inverse)]
        return replace(
            self, blocks=Blocks((1, 1)), shape=tuple(shape), scale=scale, zero=others[0], offset=offset, offset_blocks=None,
            negative=others[1], table=others[2], inverse=others[3], order=None,
        )  # fmt: skip

    def reshaped(self, shape: tuple[int, ...]) -> Grid:
        """The same grid for a tensor of another shape; only where one scale serves the whole tensor.

        Raises:
            ShapeError: the scale is not one for the whole tensor.
        """
        if self.blocks.size is not None or self.order is not None:
            raise ShapeError(f"a grid with blocks {self.blocks} cannot be moved to a tensor of shape {shape}")
        return replace(self, shape=tuple(shape))


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantized tensor: codes on a grid.

    Shapes:
        codes   grid.shape; uint8 up to 8 bits, int32 above
    """

    codes: Tensor
    grid: Grid

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    def dequantize(self) -> Tensor:
        """The float32 numbers, ``grid.shape``."""
        return self.grid.dequantize(self.codes)

    def packed(self) -> dict[str, Tensor]:
        """Flat tensors that hold everything: ``codes`` as a bit stream, ``scale`` and the like, nested names dotted."""
        grid, bits = self.grid, self.grid.format.bits
        parts = {"codes": packed_codes(self.codes, bits)}
        for name in ("scale", "offset", "negative"):
            value = getattr(grid, name)
            if isinstance(value, QTensor):
                parts |= {f"{name}.{k}": v for k, v in value.packed().items()}
            elif value is not None:
                parts[name] = value.float().contiguous()
        if grid.zero is not None:
            parts["zero"] = pack(grid.format.encode(grid.zero), bits)
        if grid.table is not None:
            parts["table"] = pack(grid.table, table_bits(grid.format))
        if grid.order is not None:
            parts["order"] = grid.order.to(torch.int32)
        return parts

    @property
    def nbytes(self) -> int:
        """Bytes of all packed parts."""
        return sum(p.numel() * p.element_size() for p in self.packed().values())


def dense(values: Tensor | QTensor) -> Tensor:
    """A tensor as it is, a quantized one dequantized."""
    return values.dequantize() if isinstance(values, QTensor) else values


def packed_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes as a bit stream."""
    kernel = PACK.kernel(codes, bits)
    return (pack if kernel is None else kernel.run)(codes, bits)


def table_bits(fmt: Format) -> int:
    """Bits that name one of the tables of a format with alternatives."""
    return max(1, len(getattr(fmt, "alternatives", ())).bit_length())


def round_to_integers(y: Tensor, rounding: Rounding, noise: Tensor | None = None) -> Tensor:
    """y on the line of all integers (even integers are even); numbers beyond 2**23 are integers already."""
    if rounding is nearest_even:
        return y.round()
    low = torch.floor(y)
    if rounding in (up, down):
        return low if rounding is down else torch.ceil(y)
    rises = rounding(Gap(y, low, low + 1, low.remainder(2) == 1), noise) & (y > low)
    return torch.where(rises, low + 1, low)


def unpack_codes(parts: Mapping[str, Tensor], name: str, fmt: Format, shape: tuple[int, ...]) -> Tensor:
    """The codes stored under ``name``, checked against the format.

    Raises:
        CheckpointError: the part is missing, has the wrong size, or holds codes that the format does not have.
    """
    if name not in parts:
        raise CheckpointError(f"the part {name!r} is missing; there are {sorted(parts)}")
    count = torch.Size(shape).numel()
    kernel = UNPACK.kernel(parts[name], fmt.bits, count)
    codes = (unpack if kernel is None else kernel.run)(parts[name], fmt.bits, count).reshape(shape)
    known = len(fmt.values) if hasattr(fmt, "values") else 1 << fmt.bits
    if codes.numel() and int(codes.max()) >= known:
        raise CheckpointError(f"the part {name!r} holds code {int(codes.max())}, {fmt.name} has {known} codes")
    return codes


def unpack_plain(parts: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A float32 part of a stated shape.

    Raises:
        CheckpointError: it is missing, or of another shape or dtype.
    """
    if name not in parts:
        raise CheckpointError(f"the part {name!r} is missing; there are {sorted(parts)}")
    part = parts[name]
    if part.dtype != torch.float32 or tuple(part.shape) != tuple(shape):
        raise CheckpointError(f"the part {name!r} should be float32 of shape {shape}, it is {part.dtype} of {tuple(part.shape)}")
    return part


__all__ = ["Grid", "QTensor", "dense", "packed_nbytes", "round_to_integers", "table_bits", "unpack_codes", "unpack_plain"]
