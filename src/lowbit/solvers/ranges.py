"""Rounding under ranges that are learned: the numbers of each block are scaled anew at every step, with straight-through gradients."""

from __future__ import annotations

from collections.abc import Callable
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
from lowbit.solvers.neighbours import order, pieces

#: what is done with the gradient of a piece
Take = Callable[[slice, Tensor], object]


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
    s * t + offset: on integers t = round(y + v), on other tables the upper neighbour of y where (y - lower) / gap + v >= 1/2. Everything
    is computed in pieces that stay in the cache.

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
        x = grid.blocks.split(W.float())
        self.offset = None
        if grid.offset is not None:
            where = grid.offset_blocks or grid.blocks
            self.offset = grid.blocks.split(where.expand(dense(grid.offset), self.shape))
        self.x = (x.clone() if self.offset is None else x - self.offset).contiguous()
        if self.x.ndim == 1:
            self.x = self.x.unsqueeze(0)
        self.scale0 = dense(grid.scale)
        self.ends = None if grid.zero is None else ((self.most - grid.zero) * self.scale0, (self.least - grid.zero) * self.scale0)
        self.values = torch.empty_like(self.x)
        self.scale, self.zero = self.scale0, grid.zero
        self.codes: Tensor | None = None

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
        """The numbers, (out, in), overwritten by the next call, and their grid."""
        grid = self._rescale(high, low)
        if not self.whole:
            plain = replace(grid, offset=None, offset_blocks=None)
            self.codes = grid.blocks.split(plain.choose(grid.blocks.merge(self.x, self.shape), down).codes).reshape(self.x.shape)
        for piece in pieces(self.x):
            t, _, _ = self._rounded(piece, v)
            out = torch.mul(t, self._of(self.scale, piece), out=self.values[piece])
            if self.offset is not None:
                out.add_(self.offset.reshape(self.x.shape)[piece])
        return grid.blocks.merge(self.values, self.shape), grid

    def _of(self, values: Tensor, piece: slice) -> Tensor:
        """One value a block against the elements of a piece."""
        return values.reshape(self.x.shape[:-1])[piece].unsqueeze(-1)

    def _rounded(self, piece: slice, v: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of a piece: t, y, and where a weight is held at an end of the range."""
        y = self.x[piece] / self._of(divisor(self.scale), piece)
        if self.whole:
            free = (y if v is None else y + v[piece]).round()
            if self.zero is None:
                t = free.clamp(self.least, self.most)
            else:
                first = self.least - self._of(self.zero, piece)
                t = free.clamp(first, first + (self.most - self.least))
            return t, y, t != free
        assert self.codes is not None and isinstance(self.grid.format, TableFormat)
        found = order(self.grid.format, y.device)
        below = found.rank.clamp(max=len(found.values) - 2)
        codes = self.codes[piece].reshape(-1).int()
        lower = found.values[below].index_select(0, codes).reshape(y.shape)
        gap = found.values.diff()[below].index_select(0, codes).reshape(y.shape)
        place = (y - lower).div_(gap)
        if v is not None:
            place.add_(v[piece])
        return lower.addcmul_((place >= 0.5).float(), gap), y, (place - 0.5).abs_() > 1

    def gradients(self, gradient: Tensor, v: Tensor | None, take: Take) -> tuple[Tensor, Tensor | None]:
        """Of the error in ``high`` and in ``low``, from that in the numbers of the last call.

        Straight through the rounding: inside of the range dx/dv = s gap, dx/ds = t - y; where a weight is held at an end, dx/dv = 0 and
        dx/ds = t. A zero point is taken as if it were not rounded.

        Args:
            v: as in the last call.
            take: called with each piece and the gradient in v there, but for the positive factor s gap.
        """
        g = self.grid.blocks.split(gradient).reshape(self.x.shape)
        of_scale, above, below = (torch.zeros(self.x.shape[:-1], device=g.device) for _ in range(3))
        for piece in pieces(self.x):
            t, y, held = self._rounded(piece, v)
            inside = g[piece].masked_fill(held, 0)
            if self.ends is None:
                of_scale[piece] = (g[piece] * t).sub_(inside * y).sum(-1)
            else:
                of_scale[piece] = (inside * (t - y)).sum(-1)
                at_end = g[piece] - inside
                above[piece] = at_end.masked_fill(y < t, 0).sum(-1)
                below[piece] = at_end.sum(-1) - above[piece]
            take(piece, inside)
        of_scale, above, below = (x.reshape(self.scale0.shape) for x in (of_scale, above, below))
        if self.ends is None:
            return of_scale * self.scale0, None
        of_scale = of_scale / (self.most - self.least)
        return (of_scale + above) * self.ends[0], (below - of_scale) * self.ends[1]
