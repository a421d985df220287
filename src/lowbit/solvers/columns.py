"""Grids fitted a group of columns at a time, as sweeping solvers need them, and the rounding of single columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.formats.table import TableFormat
from lowbit.quantizers.grid import Grid, QTensor, dense
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding

#: rounds a column (rows,) to numbers of the grid
RoundColumn = Callable[[Tensor], Tensor]


def refittable(quantizer: Quantizer) -> int:
    """The group size when each group's scale can be fitted on its own under frozen outer levels, otherwise 0.

    That needs blocks along the rows, scales that are plain, cast, or under one scale for the whole tensor, and offsets that are
    plain or cast.
    """
    if not isinstance(quantizer, Scheme) or quantizer.scaling is None or quantizer.center is not None:
        return 0
    size, scales, offsets = quantizer.blocks.size, quantizer.scale_quantizer, quantizer.offset_quantizer
    plain = scales is None or (isinstance(scales, Scheme) and scales.blocks.size is None)
    plain &= offsets is None or (isinstance(offsets, Scheme) and offsets.scaling is None)  # their outer level is not frozen
    if not isinstance(size, tuple) or len(size) != 1 or quantizer.blocks.ragged or not plain:
        return 0
    return size[0] or -1


def outer_level(grid: Grid) -> Grid | None:
    """The grid that the scales of ``grid`` are stored in, to be frozen for later fits."""
    return grid.scale.grid if isinstance(grid.scale, QTensor) else None


def column_rounder(grid: Grid, column: int, rounding: Rounding = nearest_even) -> RoundColumn:
    """How to round one column of a matrix on its grid, quickly where the grid is an ordinary one.

    The result is ``grid.choose(W).dequantize()[:, column]``, to the last bit where it is not zero; a zero may have the
    other sign. Numbers beyond the grid saturate.
    """
    fmt = grid.format
    if isinstance(fmt, TableFormat) and rounding.cut is not None and ordinary(grid):
        return _ordinary(grid, fmt, column, rounding)
    single = replace(grid.part(slice(None), slice(column, column + 1)), overflow="saturate")
    return lambda w: single.choose(w[:, None], rounding).dequantize()[:, 0]


def ordinary(grid: Grid) -> bool:
    """Whether one scale, zero and offset an element say all, in the order of the columns."""
    return type(grid) is Grid and all(part is None for part in (grid.negative, grid.table, grid.inverse, grid.order))


def _ordinary(grid: Grid, fmt: TableFormat, column: int, rounding: Rounding) -> RoundColumn:
    def of(values: Tensor | QTensor | None, blocks: Blocks) -> Tensor | None:
        return None if values is None else blocks.expand(dense(values), grid.shape)[:, column]

    scale, zero = of(grid.scale, grid.blocks), of(grid.zero, grid.blocks)
    offset = of(grid.offset, grid.offset_blocks or grid.blocks)
    return table_rounder(fmt, rounding, scale, zero, offset)


@lru_cache(maxsize=64)
def _line(fmt: TableFormat, rounding: Rounding, device: torch.device) -> tuple[Tensor, Tensor]:
    """The numbers of a format in order, and the cut points between them."""
    return torch.tensor(fmt.lines[0].values, dtype=torch.float64).float().to(device), fmt.cutpoints(rounding).to(device)


def divisor(scale: Tensor) -> Tensor:
    """What numbers are divided by: the scale, and infinity for a scale of zero, under which every number is 0 units."""
    return scale.masked_fill(scale == 0, torch.inf)


def table_rounder(
    fmt: TableFormat, rounding: Rounding, scale: Tensor | None, zero: Tensor | None, offset: Tensor | None, divide: Tensor | None = None
) -> RoundColumn:
    """Rounding of a column with one scale (zero, offset) a row.

    Shapes:
        scale, zero, offset     (rows,) float32 or None
        divide                  the ``divisor`` of the scale, where that is known
    """
    unit = divisor(scale) if divide is None and scale is not None else divide

    def units(w: Tensor) -> Tensor:
        y = w if offset is None else w - offset
        return y if unit is None else y / unit

    def restored(value: Tensor) -> Tensor:
        x = value if scale is None else value * scale
        return x if offset is None else x + offset

    def nearest(w: Tensor) -> Tensor:
        values, cuts = _line(fmt, rounding, w.device)
        return restored(values[torch.bucketize(units(w), cuts, right=True, out_int32=True)])

    if zero is None:
        return nearest
    if rounding is not nearest_even:
        raise AssertionError("callers round with a zero point to nearest even")
    return lambda w: restored((units(w).round() + zero).clamp(fmt.min, fmt.max) - zero)


def rounders(grid: Grid) -> Callable[[int], RoundColumn]:
    """For each column how to round it; quick where the grid is an ordinary one, which is laid out element by element once."""
    fmt = grid.format
    if not isinstance(fmt, TableFormat) or not ordinary(grid):
        return lambda column: column_rounder(grid, column)

    def laid(values: Tensor | QTensor | None, blocks: Blocks) -> Tensor | None:
        return None if values is None else blocks.expand(dense(values), grid.shape).mT.contiguous()

    scale, zero = laid(grid.scale, grid.blocks), laid(grid.zero, grid.blocks)
    offset = laid(grid.offset, grid.offset_blocks or grid.blocks)
    parts = (scale, zero, offset, None if scale is None else divisor(scale))
    return lambda column: table_rounder(fmt, nearest_even, *(None if p is None else p[column] for p in parts))


@dataclass
class GroupFits:
    """Scales of groups of columns, fitted one after the other and put together into one grid at the end."""

    quantizer: Scheme
    shape: tuple[int, int]
    group: int
    outer: Grid | None

    def __post_init__(self) -> None:
        self.grids: dict[int, Grid] = {}

    def fit(self, index: int, W: Tensor, importance: Tensor | None = None) -> Grid:
        """Fit group ``index`` on its columns W (rows, group)."""
        grid = self.quantizer.grid(W, importance, self.outer)
        self.grids[index] = grid
        return grid

    def grid(self, order: Tensor | None = None) -> Grid:
        """The grid of the whole matrix."""
        parts = [self.grids[i] for i in sorted(self.grids)]
        first = parts[0]

        def join(name: str) -> Tensor | QTensor | None:
            values = [getattr(p, name) for p in parts]
            if values[0] is None:
                return None
            if isinstance(values[0], QTensor):
                codes = torch.cat([v.codes for v in values], 1)
                return QTensor(codes, values[0].grid.reshaped(tuple(codes.shape)))
            return torch.cat(values, 1)

        joined: dict[str, Any] = {n: join(n) for n in ("scale", "negative", "zero", "table", "inverse", "offset")}
        return replace(first, shape=self.shape, order=order, **joined)
