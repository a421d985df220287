"""What a kernel is told about the weight of a linear layer: codes, one table, one scale (and offset) a block. No formats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.errors import ShapeError


@dataclass(frozen=True, eq=False)
class LinearSpec:
    """A matrix of codes: W[r, c] = table[codes[r, c]] * s[r, c // group] + offset[r, c // group].

    s is ``scale``, or scale * factor[r] rounded once to float32 where there is a second level.

    Shapes:
        codes           (out, in) uint8
        table           (n,) float32, n <= 2**bits
        scale, offset   (out, ceil(in / group)) float32
        factor          (out,) float32

    Args:
        bits: of a code, 1 to 8.
        group: columns that share a scale, 1 to in; the last group may be shorter.

    Raises:
        ShapeError: a shape or a code does not fit.
    """

    codes: Tensor
    bits: int
    table: Tensor
    scale: Tensor
    group: int
    offset: Tensor | None = None
    factor: Tensor | None = None

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.dtype != torch.uint8 or 0 in self.codes.shape:
            raise ShapeError(f"codes of a linear are a uint8 matrix with elements, got {self.codes.dtype} of {tuple(self.codes.shape)}")
        if not 1 <= self.bits <= 8:
            raise ShapeError(f"codes of {self.bits} bits; a linear takes 1 to 8")
        rows, columns = self.codes.shape
        if not 1 <= self.group <= columns:
            raise ShapeError(f"a group of {self.group} columns in a matrix of {columns}; 1 to {columns} are possible")
        if self.table.ndim != 1 or not 1 <= len(self.table) <= 1 << self.bits:
            raise ShapeError(f"a table of shape {tuple(self.table.shape)} for codes of {self.bits} bits, which name up to {1 << self.bits}")
        wanted = {"scale": (rows, self.groups), "offset": (rows, self.groups), "factor": (rows,), "table": tuple(self.table.shape)}
        for name, shape in wanted.items():
            values = getattr(self, name)
            if values is not None and (values.dtype != torch.float32 or tuple(values.shape) != shape):
                raise ShapeError(f"{name} of a linear is float32 of {shape}, got {values.dtype} of {tuple(values.shape)}")
        if int(self.codes.max()) >= len(self.table):
            raise ShapeError(f"code {int(self.codes.max())} in a linear whose table has {len(self.table)} numbers")

    @property
    def groups(self) -> int:
        """How many groups a row has."""
        return -(-self.codes.shape[1] // self.group)

    @property
    def scales(self) -> Tensor:
        """The scale of each block, all levels together: (out, groups) float32."""
        return self.scale if self.factor is None else self.scale * self.factor.unsqueeze(-1)

    def spread(self, per_group: Tensor) -> Tensor:
        """One value a group to one an element: (out, in)."""
        return per_group.repeat_interleave(self.group, 1)[:, : self.codes.shape[1]]

    def dequantize(self) -> Tensor:
        """W, float32, each operation rounded once."""
        W = self.table[self.codes.long()] * self.spread(self.scales)
        return W if self.offset is None else W + self.spread(self.offset)
