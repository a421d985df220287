"""HiFloat4 and HiFloat5: 64 numbers share an e6m2 scale, 8 and 4 of them one exponent bit each; 4.5 or 5.5 bits a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.catalog import register
from lowbit.formats.hifloat4 import HIF4, hifloat4, hifloat5, one_or_two, scale
from lowbit.formats.table import TableFormat
from lowbit.kernels.grid_spec import GridSpec, ScaleRule
from lowbit.packing import packed_nbytes
from lowbit.quantizers.grid import Grid, QTensor, unpack_codes
from lowbit.quantizers.lowering import numbers_of
from lowbit.quantizers.quantizer import Quantizer
from lowbit.rounding.ieee754 import nearest_even
from lowbit.scaling.scaling import amax

#: numbers that share the exponent bit of level 3, of level 2, the scale of level 1
SIZES = (4, 8, 64)


@dataclass(frozen=True)
class HiFloat4(Quantizer):
    """value = m * 2**(e2 + e3) * L1 with m in {0, 1/4 .. 7/4} and a sign. With V the largest magnitude of 4, 8 and 64 numbers::

    L1 = e6m2(bf16(V64 * bf16(1/7)));  r = bf16(1 / L1);  e2 = [V8 * r >= 4];  e3 = [V4 * r / 2**e2 >= 2]
    m  = min(floor(|x| * r / 2**(e2 + e3) * 4 + 1/2), 7) / 4

    Args:
        element: HiFloat5 has eighths in place of quarters, the rest is the same.
    """

    element: TableFormat = hifloat4

    @cached_property
    def lowered(self) -> GridSpec | str:
        """What kernels are told, or why they cannot be told."""
        element, stored = numbers_of(self.element, nearest_even, "saturate"), numbers_of(scale, nearest_even, "saturate")
        if isinstance(element, str) or isinstance(stored, str):
            return f"{element}; {stored}"
        seventh = float(torch.tensor(1 / 7).bfloat16())
        return GridSpec(element, Blocks((SIZES[2],)), ScaleRule("hifloat4", top=seventh), stored)

    def grid(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> Grid:
        """The grid of x; nothing is searched, so importance and outer levels do not matter.

        Raises:
            ShapeError: the last axis is not a multiple of 64.
        """
        x = x.float()
        shape, counts = tuple(x.shape), self._counts(tuple(x.shape))
        v4, v8, v64 = (amax(Blocks((size,)).split(x)) for size in SIZES)
        seventh = torch.tensor(1 / 7).bfloat16().float()
        level1 = Grid(scale, Blocks((1,)), counts[2]).choose((v64 * seventh).bfloat16().float())
        L1 = level1.dequantize()
        r = (1 / L1).bfloat16().float()
        r8, r4 = Blocks((8,)).expand(r, counts[1]), Blocks((16,)).expand(r, counts[0])
        e2 = (v8 * r8 >= 4).to(torch.uint8)
        half = 2.0 ** -Blocks((2,)).expand(e2, counts[0]).float()
        e3 = (v4 * r4 * half >= 2).to(torch.uint8)
        level2 = QTensor(e2, Grid(one_or_two, Blocks((8,)), counts[1], scale=level1))
        level3 = QTensor(e3, Grid(one_or_two, Blocks((2,)), counts[0], scale=level2))
        return Grid(self.element, Blocks((4,)), shape, scale=level3, inverse=r4 * half / (1 + e3.float()))

    def quantize(self, x: Tensor, importance: Tensor | None = None, noise: Tensor | None = None) -> QTensor:
        """The codes of x, ties away from zero."""
        return self.grid(x).choose(x.float())

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """36 bytes for 64 numbers (44 in HiFloat5)."""
        e3, e2, scales = (torch.Size(counts).numel() for counts in self._counts(shape))
        return packed_nbytes(torch.Size(shape).numel(), self.element.bits) + packed_nbytes(e3, 1) + packed_nbytes(e2, 1) + scales

    def unpack(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> QTensor:
        """The inverse of ``QTensor.packed``.

        Raises:
            CheckpointError: a part is missing or does not fit.
        """
        counts = self._counts(shape)
        stored = QTensor(unpack_codes(parts, "scale.scale.scale.codes", scale, counts[2]), Grid(scale, Blocks((1,)), counts[2]))
        for name, blocks, n in (("scale.scale.codes", 8, 1), ("scale.codes", 2, 0)):
            codes = unpack_codes(parts, name, one_or_two, counts[n])
            stored = QTensor(codes, Grid(one_or_two, Blocks((blocks,)), counts[n], scale=stored))
        grid = Grid(self.element, Blocks((4,)), tuple(shape), scale=stored)
        return QTensor(unpack_codes(parts, "codes", self.element, tuple(shape)), grid)

    def _counts(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        Blocks((SIZES[2],)).axes(shape)
        return [Blocks((size,)).counts(shape) for size in SIZES]


hifloat4_quantizer = register("quantizer", "hifloat4", HIF4, aliases=("hif4",))(HiFloat4())
hifloat5_quantizer = register("quantizer", "hifloat5", HIF4, aliases=("hif5",))(HiFloat4(hifloat5))
