"""A scheme whose codes are packed as digits: for numbers of levels that are no power of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lowbit.errors import CheckpointError
from lowbit.kernels.grid_spec import GridSpec
from lowbit.packing import pack, packed_nbytes
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.radix import Radix, pack_radix, radix, radix_nbytes, unpack_radix


@dataclass(frozen=True, eq=False)
class RadixTensor(QTensor):
    """A quantized tensor that is stored as digits."""

    def packed(self) -> dict[str, Tensor]:
        """As ``QTensor.packed``, the codes as digits of words."""
        return super().packed() | {"codes": pack_radix(self.codes, _layout(self.grid))}


def _layout(grid: Grid) -> Radix:
    return radix(grid.format.levels)


@dataclass(frozen=True)
class RadixPacked(Quantizer):
    """``scheme`` with its codes in mixed radix. Its format's codes are 0 .. levels - 1.

    Args:
        scheme: what the numbers are.
    """

    scheme: Scheme

    @cached_property
    def lowered(self) -> GridSpec | str:
        """What kernels are told of its numbers; how they are packed is another matter."""
        return self.scheme.lowered

    def grid(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> Grid:
        """That of the scheme."""
        return self.scheme.grid(x, importance, outer)

    def quantize(self, x: Tensor, importance: Tensor | None = None, noise: Tensor | None = None) -> QTensor:
        """The codes that the scheme gives."""
        q = self.scheme.quantize(x, importance, noise)
        return RadixTensor(q.codes, q.grid)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the words and of the scheme's other parts."""
        count, fmt = torch.Size(shape).numel(), self.scheme.format
        return self.scheme.nbytes(shape) - packed_nbytes(count, fmt.bits) + radix_nbytes(count, radix(fmt.levels))

    def unpack(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> QTensor:
        """The inverse of ``QTensor.packed``.

        Raises:
            CheckpointError: a part is missing or does not fit.
        """
        if "codes" not in parts:
            raise CheckpointError(f"the part 'codes' is missing; there are {sorted(parts)}")
        fmt = self.scheme.format
        codes = unpack_radix(parts["codes"], radix(fmt.levels), torch.Size(shape).numel())
        q = self.scheme.unpack({**parts, "codes": pack(codes, fmt.bits)}, shape)
        return RadixTensor(q.codes, replace(q.grid))
