"""From a quantized matrix to the flat record that linear kernels take, or to the sentence that says why there is none."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.errors import ShapeError
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.quantizers.grid import Grid, QTensor, dense
from lowbit.quantizers.lowering import decoded_of

#: exponents of a scale with so many values are moved into the codes, which then need fewer scales (HiFloat4)
MOST_EXPONENTS = 4


def linear_spec(q: QTensor) -> LinearSpec | str:
    """The codes, table, scales and offsets of a matrix, all levels of scales together but one for a whole row.

    A zero point becomes an offset, -zero * scale; everything else decodes to the bits of ``q.dequantize()``.
    """
    grid, shape = q.grid, q.shape
    table = decoded_of(grid.format)
    for reason, applies in (
        (f"a linear has a matrix, not shape {shape}", len(shape) != 2 or 0 in shape),
        (str(table), isinstance(table, str)),
        (f"codes of {grid.format.bits} bits; linear kernels take 1 to 8", grid.format.bits > 8),
        ("blocks have tables of their own", grid.table is not None),
        ("the columns are in another order", grid.order is not None),
        ("negative numbers have scales of their own", grid.negative is not None),
    ):
        if applies:
            return reason
    assert isinstance(table, Tensor)
    table = table.to(q.codes.device)
    codes, table, bits, scale, blocks = _fold_exponents(q.codes, grid, table)
    factor = None
    if isinstance(scale, QTensor):
        scale, factor = _levels(scale, blocks, shape)
    group = _columns(blocks, shape)
    offset_blocks = grid.offset_blocks or grid.blocks
    if grid.offset is not None:
        group = math.gcd(group, _columns(offset_blocks, shape))
    counts = (shape[0], -(-shape[1] // group))
    scales = torch.ones(counts, device=codes.device) if scale is None else _per_group(dense(scale), blocks, shape, group)
    offset = None if grid.offset is None else _per_group(dense(grid.offset), offset_blocks, shape, group)
    if grid.zero is not None:
        product = scales if factor is None else scales * factor.unsqueeze(-1)
        moved = -_per_group(grid.zero, grid.blocks, shape, group) * product
        offset = moved if offset is None else offset + moved
    return LinearSpec(codes, bits, table, scales, group, offset, factor)


def _columns(blocks: Blocks, shape: tuple[int, ...]) -> int:
    """How many columns share a block, or a part of one that no row cuts."""
    columns = shape[1]
    if isinstance(blocks.size, int):
        return math.gcd(blocks.size, columns)
    return columns if blocks.size is None else min(columns, blocks.axes(shape)[1])  # a ragged block may be wider than the matrix


def _per_group(values: Tensor, blocks: Blocks, shape: tuple[int, ...], group: int) -> Tensor:
    """One value a block to one a group of a row: (rows, groups) float32."""
    rows, columns = torch.arange(shape[0]), torch.arange(0, shape[1], group)
    if blocks.size is None:
        return values.float().reshape(1, 1).expand(len(rows), len(columns)).contiguous()
    if isinstance(blocks.size, int):
        return values.float()[(rows[:, None] * shape[1] + columns) // blocks.size]
    high, wide = blocks.axes(shape)
    return values.float()[(rows // high)[:, None], columns // wide]


def _levels(scale: QTensor, blocks: Blocks, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Scales and, where a second level is the same along every row, that as a factor."""
    grid = scale.grid
    rows = shape[0]
    plain = grid.zero is None and grid.offset is None and grid.negative is None and grid.table is None and grid.order is None
    if not plain or grid.scale is None or not isinstance(blocks.size, tuple) or blocks.axes(shape)[0] != 1:
        return scale.dequantize(), None
    outer = dense(grid.scale)
    if grid.blocks.size is None:
        return grid.format.decode(scale.codes), outer.float().reshape(1).expand(rows).contiguous()
    if isinstance(grid.blocks.size, tuple) and grid.blocks.axes(scale.shape) == (1, scale.shape[1]):
        return grid.format.decode(scale.codes), outer.float().reshape(rows)
    return scale.dequantize(), None


class _Folded(NamedTuple):
    codes: Tensor
    table: Tensor
    bits: int
    scale: Tensor | QTensor | None
    blocks: Blocks


def _fold_exponents(codes: Tensor, grid: Grid, table: Tensor) -> _Folded:
    """Powers of two that few columns share go into the codes, as long as those stay within 8 bits.

    HiFloat4: a number of 4 bits times 1, 2 or 4 is one of 32 numbers, and 64 columns share what is left.
    """
    scale, blocks, bits = grid.scale, grid.blocks, grid.format.bits
    shape = grid.shape
    while isinstance(scale, QTensor) and scale.grid.scale is not None and isinstance(blocks.size, tuple):
        inner = scale.grid
        powers = decoded_of(inner.format)
        if isinstance(powers, str) or len(powers) > MOST_EXPONENTS or inner.zero is not None or inner.offset is not None:
            break
        if not isinstance(inner.blocks.size, tuple) or not bool((torch.frexp(powers)[0] == 0.5).all()):
            break
        try:
            exponents = blocks.expand(scale.codes, shape).long()
            wider = Blocks(tuple(a * b for a, b in zip(blocks.axes(shape), inner.blocks.axes(scale.shape), strict=True)))
        except ShapeError:
            break
        products = (table[:, None] * powers.to(table.device)).view(torch.int32)  # as bits: zeros keep their signs
        known, index = products.unique(return_inverse=True)
        if len(known) > 256:
            break
        codes = index[codes.long(), exponents].to(torch.uint8)
        table, bits = known.view(torch.float32), max(1, (len(known) - 1).bit_length())
        scale, blocks = inner.scale, wider
    return _Folded(codes, table, bits, scale, blocks)
