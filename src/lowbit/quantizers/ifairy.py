"""iFairy: complex weights in {1, i, -1, -i}, two bits a pair of real numbers, with a real and an imaginary scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.errors import ShapeError
from lowbit.formats.integer import INTEGERS
from lowbit.packing import packed_nbytes
from lowbit.quantizers.grid import Grid, QTensor, unpack_codes, unpack_plain
from lowbit.quantizers.quantizer import Quantizer
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding
from lowbit.scaling.scaling import fixed_sum

WANG = Source(
    "iFairy: the First 2-bit Complex LLM with All Parameters in {pm1, pm i}",
    "Wang et al.",
    2025,
    "arXiv:2508.05571",
    parts="the quantizer: a root by the sector of the phase, two mean scales",
    departs="Neighbours on the last axis are the real and imaginary part of one weight. A sector holds its lower border. A sector pair "
    "without entries has scale 0 (the released code divides zero by zero).",
    records=("ifairy",),
)


@dataclass(frozen=True, eq=False)
class PhaseGrid(Grid):
    """Pairs (re, im) that are (+-s_re, 0) or (0, +-s_im); ``scale`` holds s_re and s_im. Code k stands for i**k."""

    def choose(self, x: Tensor, rounding: Rounding = nearest_even, noise: Tensor | None = None) -> QTensor:
        """One code a pair, by the sector of its phase; there is nothing to round.

        Raises:
            ShapeError: x does not have the grid's shape.
        """
        if tuple(x.shape) != self.shape:
            raise ShapeError(f"the grid was made for {self.shape}, the tensor is {tuple(x.shape)}")
        return PhaseTensor(sectors(x.float()), self)

    def dequantize(self, codes: Tensor) -> Tensor:
        """The float32 numbers, ``shape``."""
        assert isinstance(self.scale, Tensor)
        sign = 1.0 - (codes >> 1).float() * 2
        imaginary = (codes & 1).bool()
        pairs = torch.stack((torch.where(imaginary, 0.0, sign), torch.where(imaginary, sign, 0.0)), -1)
        return (pairs * self.scale).reshape(self.shape)


class PhaseTensor(QTensor):
    """Half as many codes as numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.grid.shape)


def sectors(x: Tensor) -> Tensor:
    """k = 0..3 with the phase of (re, im) in [k pi/2 - pi/4, k pi/2 + pi/4), by comparisons; 0 for (0, 0).

    Shapes:
        x       (*, 2 n)
        result  (*, n) uint8
    """
    re, im = x.unflatten(-1, (-1, 2)).unbind(-1)
    first, second, third = (-im <= re) & (im < re), (im >= re) & (im > -re), (im <= -re) & (im > re)
    code = torch.where(first, 0, torch.where(second, 1, torch.where(third, 2, 3)))
    return torch.where((re == 0) & (im == 0), 0, code).to(torch.uint8)


@dataclass(frozen=True)
class IFairy(Quantizer):
    """s_re = mean |re| over the pairs that become +-1, s_im = mean |im| over those that become +-i."""

    def grid(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> Grid:
        """Both scales, over the whole tensor.

        Raises:
            ShapeError: the last axis is odd.
        """
        bare = self._bare(tuple(x.shape))
        x = x.float()
        parts = x.unflatten(-1, (-1, 2)).abs()
        imaginary = (sectors(x) & 1).bool()
        sums = []
        for axis, mine in ((0, ~imaginary), (1, imaginary)):
            total = fixed_sum(torch.where(mine, parts[..., axis], 0.0).reshape(-1))
            sums.append(total / mine.sum().clamp(min=1))
        scale = torch.stack(sums).float()
        return replace(bare, scale=scale if bool(torch.isfinite(x).all()) else torch.full_like(scale, torch.nan))

    def quantize(self, x: Tensor, importance: Tensor | None = None, noise: Tensor | None = None) -> QTensor:
        """One code a pair."""
        return self.grid(x).choose(x)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """A bit a number and two float32 scales."""
        self._bare(shape)
        return packed_nbytes(torch.Size(shape).numel() // 2, 2) + 8

    def unpack(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> QTensor:
        """The inverse of ``QTensor.packed``.

        Raises:
            CheckpointError: a part is missing or does not fit.
        """
        bare = self._bare(tuple(shape))
        grid = replace(bare, scale=unpack_plain(parts, "scale", (2,)))
        return PhaseTensor(unpack_codes(parts, "codes", grid.format, (*shape[:-1], shape[-1] // 2)), grid)

    def _bare(self, shape: tuple[int, ...]) -> PhaseGrid:
        if not shape or shape[-1] % 2:
            raise ShapeError(f"ifairy takes pairs on the last axis, the tensor is {shape}")
        return PhaseGrid(INTEGERS["uint2"], Blocks((2,)), shape)


ifairy = register("quantizer", "ifairy", WANG)(IFairy())
