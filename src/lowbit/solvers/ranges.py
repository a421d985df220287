"""Rounding under ranges that are learned: the numbers of each block are scaled anew at every step, with straight-through gradients."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lowbit.formats.table import TableFormat
from lowbit.quantizers.grid import Grid, QTensor, dense
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import text
from lowbit.rounding.ieee754 import down
from lowbit.solvers.columns import divisor
from lowbit.solvers.neighbours import order


def refusal(quantizer: Quantizer, name: str) -> str | None:
    """Why ranges of this quantizer cannot be learned, or None."""
    affine = None
    if isinstance(quantizer, Scheme) and quantizer.scaling is not None:
        found = quantizer.scaling(torch.tensor([[-1.0, 0.5, 1.0, 2.0]]), quantizer.format)
        affine = found[0] if isinstance(found, list) else found
    if affine is None or any(part is not None for part in (affine.negative, affine.table, affine.inverse)):
        return f"{name} learns the range of each block, and {text(quantizer)} has no scale that could be moved alone"
    return None


class Learned:
    """A weight on a grid whose range in each block is a share of the one it began with.

    Without a zero point s = high * s0. With one, the ends of the range are high * hi0 and low * lo0, s is their distance over the number
    of steps, and the zero point is where the lower end puts it. In units of the block y = (x - offset) / s, and each weight is
    s * t + offset with t the lower neighbour of y or, where (y - lower) / gap + v >= 1/2, the upper one.

    Shapes:
        W       (out, in)
        high    one a block
        low     as high; only where there is a zero point
        v       block by block, in gaps of the format
    """

    def __init__(self, W: Tensor, grid: Grid) -> None:
        assert isinstance(grid.format, TableFormat) and grid.scale is not None
        self.grid, self.shape = grid, tuple(W.shape)
        found = order(grid.format, W.device)
        self.least, self.most = float(found.values[0]), float(found.values[-1])
        self.whole = len(found.values) == self.most - self.least + 1 and self.least == int(self.least)
        offset = None
        if grid.offset is not None:
            where = grid.offset_blocks or grid.blocks
            offset = grid.blocks.split(where.expand(dense(grid.offset), self.shape))
        x = grid.blocks.split(W.float())
        self.offset = offset
        self.x = x if offset is None else x - offset
        self.scale0 = dense(grid.scale)
        self.ends = None if grid.zero is None else ((self.most - grid.zero) * self.scale0, (self.least - grid.zero) * self.scale0)
        self.y, self.t, self.place = (torch.empty_like(self.x) for _ in range(3))
        self.scale, self.zero = self.scale0, grid.zero

    def _rescale(self, high: Tensor, low: Tensor | None) -> Grid:
        """The grid with these shares; sets scale and zero as they are stored."""
        if self.ends is None:
            scale = high * self.scale0
        else:
            assert low is not None
            scale = (high * self.ends[0] - low * self.ends[1]) / (self.most - self.least)
        kept: Tensor | QTensor = scale
        if isinstance(self.grid.scale, QTensor):
            kept = self.grid.scale.grid.choose(scale)
        self.scale = dense(kept)
        if self.ends is not None and low is not None:
            self.zero = (self.least - low * self.ends[1] / divisor(self.scale)).round().clamp(self.least, self.most)
        return replace(self.grid, scale=kept, zero=self.zero)

    def round(self, high: Tensor, low: Tensor | None, v: Tensor | None) -> tuple[Tensor, Grid]:
        """The numbers, (out, in), and their grid."""
        grid = self._rescale(high, low)
        scale = self.scale.unsqueeze(-1)
        torch.div(self.x, divisor(scale), out=self.y)
        if self.whole:
            lower = torch.floor(self.y, out=self.t)
            if self.zero is None:
                lower.clamp_(self.least, self.most - 1)
            else:
                first = self.least - self.zero.unsqueeze(-1)
                lower.clamp_(first, first + (self.most - self.least - 1))
            torch.sub(self.y, lower, out=self.place)
            gap: Tensor | None = None
        else:
            lower, gap = self._table(grid)
            torch.sub(self.y, lower, out=self.place).div_(gap)
        if v is not None:
            self.place.add_(v)
        risen = (self.place >= 0.5).float()
        self.t = lower.add_(risen if gap is None else risen.mul_(gap))
        x = self.t * scale
        return grid.blocks.merge(x if self.offset is None else x.add_(self.offset), self.shape), grid

    def _table(self, grid: Grid) -> tuple[Tensor, Tensor]:
        fmt = grid.format
        assert isinstance(fmt, TableFormat)
        found = order(fmt, self.x.device)
        plain = replace(grid, offset=None, offset_blocks=None)
        codes = plain.choose(grid.blocks.merge(self.x, self.shape), down).codes.int().reshape(-1)
        below = found.rank.clamp(max=len(found.values) - 2)
        low, gap = found.values[below], found.values.diff()[below]
        split = grid.blocks.split
        return split(low.index_select(0, codes).reshape(self.shape)).contiguous(), split(gap.index_select(0, codes).reshape(self.shape))

    def gradients(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of the error in v (up to a positive factor, the step), in ``high`` and in ``low``, from that in the numbers of the last call.

        Straight through the rounding: inside of the range dx/dv = s gap, dx/ds = t - y; where a weight is held at an end, dx/dv = 0 and
        dx/ds = t.
        """
        g = self.grid.blocks.split(gradient)
        inside = ((self.place - 0.5).abs_() <= 1).float()
        of_v = g * inside
        if self.ends is None:
            of_scale = (g * self.t - of_v * self.y).sum(-1)
            return of_v, of_scale * self.scale0, None
        hi0, lo0 = self.ends
        of_scale = (of_v * (self.t - self.y)).sum(-1) / (self.most - self.least)
        held = g - of_v
        above = (held * (self.place > 0.5)).sum(-1)
        return of_v, (of_scale + above) * hi0, (held.sum(-1) - above - of_scale) * lo0
